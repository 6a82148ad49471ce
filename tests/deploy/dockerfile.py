"""deploy/Dockerfile, read for the tests."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Dockerfile"
KEYWORDS = re.compile(r"ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|RUN|STOPSIGNAL|USER|VOLUME|WORKDIR")


@dataclass(frozen=True)
class Instruction:
    keyword: str
    flags: dict[str, str]
    value: str

    @property
    def words(self) -> list[str]:
        """The words of the shell form, or the strings of the JSON form."""
        return json.loads(self.value) if self.value.startswith("[") else self.value.split()


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def of(self, keyword: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.keyword == keyword]


def parse(text: str) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first FROM, and the stages."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        keyword, _, rest = line.strip().partition(" ")
        assert KEYWORDS.fullmatch(keyword), line
        flags = {}
        while found := re.match(r"\s*--([a-z-]+)=(\S+)\s+", rest):
            flags[found[1]] = found[2]
            rest = rest[found.end() :]
        rest = rest.strip()
        assert rest, line
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name or str(len(stages)), re.sub(r"\$\{(\w+)\}", lambda use: arguments[use[1]], base)))
        elif stages:
            stages[-1].instructions.append(Instruction(keyword, flags, rest))
        else:
            assert keyword == "ARG", line
            name, _, value = rest.partition("=")
            arguments[name] = value
    return arguments, stages


def stages() -> dict[str, Stage]:
    return {stage.name: stage for stage in parse(FILE.read_text())[1]}


def lineage(name: str) -> list[Stage]:
    """A stage after those that it starts from."""
    known = stages()
    found = [known[name]]
    while found[0].base in known:
        found.insert(0, known[found[0].base])
    return found
