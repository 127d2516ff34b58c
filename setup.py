"""What pyproject.toml cannot say: configs/ is in the package, and the README's links are whole.

``DSVL_URL=https://HOST/OWNER/NAME python -m build`` names the repository. Links to its files then
lead there, also from the page of a package index. Without it they become plain words.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r'\[([^\]\n]*)\]\((?!https?://|#|mailto:)([^)\s]+)(?: "[^"]*")?\)')


def readme(text: str, url: str) -> str:
    """Make a page's links to files of this tree independent of where the page is shown.

    Args:
        text: The page.
        url: Of the repository; empty where it is not known.
    """
    return LINK.sub(rf"[\1]({url}/blob/HEAD/\2)" if url else r"\1", text)


if __name__ == "__main__":
    url = os.environ.get("DSVL_URL", "").rstrip("/")
    pages = {"Source": "", "Documentation": "/blob/HEAD/docs/running.md"}
    pages |= {"Changelog": "/blob/HEAD/CHANGELOG.md", "Issues": "/issues"}
    setup(
        packages=[*find_packages(include=["dsvl_pipeline*"]), "dsvl_pipeline.examples"],
        package_dir={"dsvl_pipeline.examples": "configs"},
        long_description=readme((ROOT / "README.md").read_text(encoding="utf-8"), url),
        long_description_content_type="text/markdown",
        project_urls={name: url + page for name, page in pages.items()} if url else {},
    )
