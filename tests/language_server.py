"""As much of an editor as it takes to ask pyright's language server what it would show."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from interpreter import where_python_is_this_one

import orchestrio

Message = dict[str, Any]

#: Where the cursor stands in a source; taken out before the server sees it.
CURSOR = "|"


class Editor:
    """Opens sources, and asks the server about the place at the cursor.

    See https://microsoft.github.io/language-server-protocol/ for the messages.
    """

    def __init__(self, folder: Path) -> None:
        settings = {"extraPaths": [str(Path(orchestrio.__file__).parents[1])]}
        (folder / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
        self.folder = folder.as_uri()
        self.numbers = itertools.count(1)
        self.server = subprocess.Popen(
            [sys.executable, "-m", "pyright.langserver", "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=where_python_is_this_one(),
        )

    def __enter__(self) -> Self:
        workspace = [{"uri": self.folder, "name": "editor"}]
        capabilities = {"textDocument": {"hover": {"contentFormat": ["markdown"]}}}
        self.ask(
            "initialize",
            processId=None,
            rootUri=self.folder,
            workspaceFolders=workspace,
            capabilities=capabilities,
        )
        self.tell("initialized")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.ask("shutdown")
            self.tell("exit")
        else:
            self.server.kill()
        self.server.communicate()

    def write(self, **message: object) -> None:
        assert self.server.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.server.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.server.stdin.flush()

    def read(self) -> Message:
        assert self.server.stdout is not None
        length = 0
        while header := self.server.stdout.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the language server has gone"
        message: Message = json.loads(self.server.stdout.read(length))
        return message

    def tell(self, method: str, **parameters: object) -> None:
        self.write(method=method, params=parameters)

    def ask(self, method: str, **parameters: object) -> Any:
        """Send a request, wait for the answer, and meanwhile answer what the server asks."""
        number = next(self.numbers)
        self.write(id=number, method=method, params=parameters)
        while True:
            message = self.read()
            if message.get("id") == number and "method" not in message:
                assert "error" not in message, message["error"]
                return message["result"]
            if "id" in message:
                asked = message["params"].get("items") if message.get("params") else None
                self.write(id=message["id"], result=[{} for _ in asked] if asked else None)

    def at_cursor(self, method: str, source: str) -> Any:
        """Open a source and ask about the place at its cursor."""
        before, after = source.split(CURSOR)
        document = f"{self.folder}/opened{next(self.numbers)}.py"
        self.tell(
            "textDocument/didOpen",
            textDocument={
                "uri": document,
                "languageId": "python",
                "version": 1,
                "text": before + after,
            },
        )
        return self.ask(
            method,
            textDocument={"uri": document},
            position={
                "line": before.count("\n"),
                "character": len(before) - before.rfind("\n") - 1,
            },
        )

    def hover(self, source: str) -> str:
        """Return what is shown of the name at the cursor."""
        shown: str = self.at_cursor("textDocument/hover", source)["contents"]["value"]
        return shown

    def complete(self, source: str) -> list[str]:
        """Return what is offered to be typed at the cursor."""
        found = self.at_cursor("textDocument/completion", source)
        return [item["label"] for item in found["items"]]
