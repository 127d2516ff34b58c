"""The public names, for type checkers: `__init__.py` loads each when it is first asked for."""

from dsvl_pipeline.api.auto import AutoConfig as AutoConfig
from dsvl_pipeline.api.auto import AutoImageProcessor as AutoImageProcessor
from dsvl_pipeline.api.auto import AutoModel as AutoModel
from dsvl_pipeline.api.auto import AutoModelForImageTextToText as AutoModelForImageTextToText
from dsvl_pipeline.api.auto import AutoProcessor as AutoProcessor
from dsvl_pipeline.api.auto import register_with_transformers as register_with_transformers
from dsvl_pipeline.api.config import DeepseekVLConfig as DeepseekVLConfig
from dsvl_pipeline.api.config import DeepseekVLHybridConfig as DeepseekVLHybridConfig
from dsvl_pipeline.api.generation.config import GenerationConfig as GenerationConfig
from dsvl_pipeline.api.image_processor import (
    DeepseekVLHybridImageProcessor as DeepseekVLHybridImageProcessor,
)
from dsvl_pipeline.api.image_processor import (
    DeepseekVLHybridImageProcessorPil as DeepseekVLHybridImageProcessorPil,
)
from dsvl_pipeline.api.image_processor import DeepseekVLImageProcessor as DeepseekVLImageProcessor
from dsvl_pipeline.api.image_processor import (
    DeepseekVLImageProcessorPil as DeepseekVLImageProcessorPil,
)
from dsvl_pipeline.api.models import (
    DeepseekVLForConditionalGeneration as DeepseekVLForConditionalGeneration,
)
from dsvl_pipeline.api.models import (
    DeepseekVLHybridForConditionalGeneration as DeepseekVLHybridForConditionalGeneration,
)
from dsvl_pipeline.api.models import DeepseekVLHybridModel as DeepseekVLHybridModel
from dsvl_pipeline.api.models import (
    DeepseekVLHybridPreTrainedModel as DeepseekVLHybridPreTrainedModel,
)
from dsvl_pipeline.api.models import DeepseekVLModel as DeepseekVLModel
from dsvl_pipeline.api.models import DeepseekVLPreTrainedModel as DeepseekVLPreTrainedModel
from dsvl_pipeline.api.pipeline import pipeline as pipeline
from dsvl_pipeline.api.processor import DeepseekVLHybridProcessor as DeepseekVLHybridProcessor
from dsvl_pipeline.api.processor import DeepseekVLProcessor as DeepseekVLProcessor
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.job.config import JobConfig as JobConfig
from dsvl_pipeline.job.reading import load_job as load_job
from dsvl_pipeline.run.run import run_job as run_job
from dsvl_pipeline.table.reader import iter_batches as iter_batches
from dsvl_pipeline.table.reader import read_table as read_table

Engine = ModelEngine
