"""The code blocks of a Markdown file, and one shell script that pastes them in order.

Uses the standard library only, because it also runs before anything is installed. A block under
a line that ends in "as `NAME`:" is a file to be saved; ``<!-- not run: REASON -->`` before a
block says why no test runs it.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?P<before>[^\n]*)\n(?:[ \t]*\n)?(?P<mark><!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_NAME = re.compile(r"\bas `([^`/]+)`:$")
RUN = ("bash", "python")
END = "END_OF_BLOCK"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block.

    Attributes:
        language: After the fence.
        text: Its lines.
        line: Of the opening fence, from 1.
        file: The name to save it under; empty when there is none.
        reason: Why it is not run; empty when it is.
    """

    language: str
    text: str
    line: int
    file: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """Return a short name: its line and what it begins with."""
        return f"line {self.line}, {self.file or self.text.splitlines()[0]}"

    @property
    def is_run(self) -> bool:
        """Return whether it is to be run or saved."""
        return bool(self.file) or (self.language in RUN and not self.reason)


def read_blocks(path: Path) -> list[Block]:
    """Return the blocks of a Markdown file in their order."""
    text = path.read_text(encoding="utf-8")
    blocks = []
    for found in _BLOCK.finditer(text):
        name = _NAME.search(found["before"])
        blocks.append(
            Block(
                language=found["language"],
                text=found["text"],
                line=text.count("\n", 0, found.start("language")) + 1,
                file=name[1] if name else "",
                reason=found["reason"] or "",
            )
        )
    return blocks


def write_script(blocks: Iterable[Block]) -> str:
    """Return a bash script that does with each block what a reader does; ends at an error."""
    parts = ["set -eo pipefail", "begun=$SECONDS"]
    for block in blocks:
        title = shlex.quote(block.name)
        parts.append(f"printf '\\n=== %s\\n' {title}")
        if block.file:
            parts.append(f"cat > {block.file} <<'{END}'\n{block.text}{END}")
        elif block.language == "python":
            parts.append(f"python - <<'{END}'\n{block.text}{END}")
        else:
            parts.append(block.text)
        parts.append('printf "=== %d s\\n" $((SECONDS - begun)); begun=$SECONDS')
    return "\n".join(parts) + "\n"
