"""The file llms.txt, for programs that read: https://llmstxt.org."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

REPOSITORY = "https://github.com/orchestrio/orchestrio"
ABOUT = "Long-running tasks that talk to each other, on asyncio and trio."


def write_llms_txt(app: Sphinx, failure: Exception | None) -> None:
    """Write the list of pages with what each is, in a line.

    A page that is plain Markdown is linked to as that.
    """
    if failure is not None or app.builder.name not in {"html", "dirhtml"}:
        return
    lines = [f"# {app.config.project}", "", f"> {ABOUT}"]
    for part in app.env.toctree_includes[app.config.root_doc]:
        lines += ["", f"## {app.env.titles[part].astext()}", ""]
        for page in [part, *app.env.toctree_includes.get(part, [])]:
            source = app.env.doc2path(page).read_text("utf-8")
            is_markdown = not re.search(r"^```\{(?:eval-rst|include)\}", source, re.MULTILINE)
            where = f"_sources/{page}.md.txt" if is_markdown else app.builder.get_target_uri(page)
            first = next(app.env.get_doctree(page).findall(nodes.paragraph)).astext()
            what = " ".join(first.split()).partition(". ")[0].rstrip(".") + "."
            lines.append(
                f"- [{app.env.titles[page].astext()}]({app.config.html_baseurl}{where}): {what}"
            )
    stub = f"{REPOSITORY}/blob/main/stubs/orchestrio/__init__.pyi"
    lines += ["", "## Optional", "", f"- [Stub]({stub}): Every public name with its signature."]
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")


def setup(app: Sphinx) -> None:
    """Write it at the end."""
    app.connect("build-finished", write_llms_txt)
