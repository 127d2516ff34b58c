"""An Airflow DAG: every night, what is new or changed. Copy it into the folder of DAGs.

The workers need the command ``dsvl`` (``pip install dsvl-pipeline``, without extras), and the job
file. The job runs on a Ray cluster; its output and exit code come back.
"""

import json
import subprocess
from datetime import datetime, timedelta

from airflow.exceptions import AirflowFailException
from airflow.sdk import dag, task

COMMAND = ["dsvl", "submit", "/opt/jobs/captions.yaml", "--target", "ray", "--json"]
COMMAND += ["--address", "http://ray-head:8265"]  # the port of the head's dashboard


# One at a time: a second run of the same table would be refused.
@dag(schedule="0 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def captions():
    """Caption what is new."""

    @task(retries=3, retry_delay=timedelta(minutes=5))
    def run():
        """Submit the job, wait for it, and return its id."""
        done = subprocess.run(COMMAND, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode in (1, 2):  # it would end the same again
            raise AirflowFailException(f"dsvl ended with {done.returncode}; its log says why")
        done.check_returncode()  # 3: a retry goes on where this one stopped
        return json.loads(done.stdout)["job_id"]

    run()


captions()
