"""The command: runs the tests that classes.py and invariants.py name, bandit and pip-audit."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .classes import CLASSES
from .invariants import INVARIANTS

ROOT = Path(__file__).resolve().parents[2]

SECTIONS = {"Classes": CLASSES, "Invariants": INVARIANTS}


class Report:
    """A plugin of pytest: keeps to the tests that are named above, and counts how they ended."""

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}  # by the id of a test: passed, failed or skipped

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if any(_is_of(item.nodeid, name) for name in _names())]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worse = {"passed": 0, "skipped": 1, "failed": 2}
        before = self._outcomes.get(report.nodeid, "passed")
        self._outcomes[report.nodeid] = max(before, report.outcome, key=worse.__getitem__)

    def lines(self, tests: dict[str, Sequence[str]]) -> tuple[list[str], bool]:
        """One line each, and whether all is well."""
        lines, well = [], True
        for name, wanted in tests.items():
            said, good = self._say(wanted)
            lines.append(f"  {name:<52} {said}")
            well &= good
        return lines, well

    def _say(self, wanted: Sequence[str]) -> tuple[str, bool]:
        gone = [name for name in wanted if not any(_is_of(test, name) for test in self._outcomes)]
        if gone or not wanted:
            return f"FAILED: no test {gone[0] if gone else 'is named'}", False
        ended = [how for test, how in self._outcomes.items() if any(_is_of(test, name) for name in wanted)]
        counts = [f"{ended.count(how)} {how}" for how in ("failed", "passed", "skipped") if how in ended]
        well = "failed" not in ended and "passed" in ended
        return ("" if well else "FAILED: ") + ", ".join(counts), well


def _names() -> set[str]:
    return {name for tests in SECTIONS.values() for names in tests.values() for name in names}


def _is_of(test: str, name: str) -> bool:
    """Whether the test's id is in the file, or is the one with or without parameters, that the name says."""
    wanted = f"tests/{name}"
    return test == wanted or test.startswith((f"{wanted}::", f"{wanted}["))


def _run_tests(arguments: Sequence[str]) -> bool:
    report = Report()
    files = sorted({f"tests/{name.partition('::')[0]}" for name in _names()})
    missing = [file for file in files if not (ROOT / file).exists()]
    present = [file for file in files if file not in missing]
    code = pytest.main(["-q", "--no-header", "--tb=short", "-r", "", *present, *arguments], plugins=[report])
    well = code == pytest.ExitCode.OK
    for section, tests in SECTIONS.items():
        lines, good = report.lines(tests)
        print(f"\n{section}", *lines, sep="\n")
        well &= good
    return well


def _run_bandit() -> bool:
    """Every finding is repaired, or justified where it is switched off."""
    folders = ["server", "client", "tools"]
    command = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-r", *folders]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(f"  {'bandit: ' + ', '.join(folders):<52} {'FAILED' if ended.returncode else 'no findings'}")
    if ended.returncode:
        print(ended.stdout, ended.stderr)
    return ended.returncode == 0


def _run_pip_audit(strict: bool) -> bool:
    """Known vulnerabilities of the locked versions. Where the service cannot be reached, that is said, and no more."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service=osv", "--requirement=requirements.lock"]
    command += ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    title = "pip-audit: requirements.lock"
    try:
        packages = json.loads(ended.stdout)["dependencies"]
    except ValueError:
        away = "ConnectionError" in ended.stderr or "Timeout" in ended.stderr
        why = "the vulnerability service cannot be reached" if away else ended.stderr.strip().rpartition("\n")[2]
        print(f"  {title:<52} {'FAILED: ' if strict or not away else ''}not done, {why}")
        return away and not strict
    found = [f"{package['name']} {flaw['id']}" for package in packages for flaw in package.get("vulns", [])]
    unknown = sum("skip_reason" in package for package in packages)
    said = f"FAILED: {', '.join(found)}" if found else f"{len(packages) - unknown} packages, none with a known flaw"
    print(f"  {title:<52} {said}{f', {unknown} not known to the service' if unknown else ''}")
    return not found and not (strict and unknown)


def main(arguments: Sequence[str]) -> int:
    """`--strict`: fail too when the vulnerability service cannot be reached. Other arguments are pytest's."""
    strict = "--strict" in arguments
    well = _run_tests([argument for argument in arguments if argument != "--strict"])
    print("\nTools")
    well &= _run_bandit()
    well &= _run_pip_audit(strict)
    print("\nEverything holds." if well else "\nFAILED: not everything holds.")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
