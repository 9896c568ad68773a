"""One call of `senet data collect`: choices are applied, what is missing is fetched, the contact sheet is written."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from senet.data.collect.examine import Picture, Unfit, examine, near
from senet.data.collect.fetch import Fetcher, FetchError, LastingError
from senet.data.collect.folder import Folder, locked
from senet.data.collect.manifest import Manifest, Record, State, file_name
from senet.data.collect.sheet import write_sheet
from senet.data.collect.sources import Candidate, describe, list_candidates
from senet.data.collect.spec import Source, Spec, read_spec
from senet.data.pictures import printable

_WORKERS_A_MIX = 4
_PROGRESS_EVERY = 25
_SHOWN = 8
_TOO_SMALL = "too small"


@dataclass(frozen=True)
class Summary:
    """A collection after a call."""

    states: dict[str, Counter[State]]
    """pictures by mix and state"""
    new: Counter[str]
    """pictures that this call added, by mix"""
    dropped: Counter[str]
    """dropped ones by reason"""
    problems: list[str]
    """what did not answer in this call"""

    @property
    def empty(self) -> bool:
        """Whether nothing at all was got, in this call and before."""
        return not any(count[State.KEPT] + count[State.REJECTED] for count in self.states.values())

    def lines(self) -> list[str]:
        """A few plain lines for a terminal; the first problems are named."""
        lines = [
            f"{mix}: {count[State.KEPT]} kept ({self.new[mix]} new), {count[State.REJECTED]} rejected, "
            f"{count[State.DROPPED]} dropped, {count[State.FAILED]} failed"
            for mix, count in self.states.items()
        ]
        if self.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
            lines.append(f"dropped: {reasons}; the manifest says which")
        if self.problems:
            lines.append(f"failed: {len(self.problems)}; the same command asks for them again")
            lines += [f"  {printable(problem)}" for problem in self.problems[:_SHOWN]]
        return lines


def collect(spec_file: Path, out: Path, choices: Path | None, report: Callable[[str], None]) -> Summary:
    """Collect the pictures that a spec asks for into a folder; what is there already is left as it is.

    Args:
        spec_file: what to collect, see `Spec`.
        out: the folder of the collection, see `folder.py`.
        choices: what the contact sheet saved; not given: `choices.json` in `out`, if there is one.
        report: told how far it is, in lines.

    Raises:
        InputError: spec, choices or manifest are wrong, or another call is collecting there.
    """
    spec = read_spec(spec_file)
    with locked(out) as folder:
        folder.apply(choices)
        call = _Call(spec, folder, report)
        asyncio.run(call.fetch_all())
        # A picture that was gone and is back has been judged before.
        folder.apply(None)
        folder.manifest.tidy()
        write_sheet(folder, spec_file.stem, str(spec_file))
        return _summary(spec, folder, call)


class _Call:
    """What a call has done so far."""

    def __init__(self, spec: Spec, folder: Folder, report: Callable[[str], None]) -> None:
        self.new: Counter[str] = Counter()
        self.problems: list[str] = []
        self._spec, self._folder, self._report = spec, folder, report
        self._asked: set[tuple[str, str]] = set()
        self._busy: Counter[str] = Counter()
        self._got = Counter(r.mix for r in folder.manifest if r.got and not folder.missing(r))
        # A picture may take a quarter of a gigabyte to decode.
        self._decoding = asyncio.Lock()

    async def fetch_all(self) -> None:
        """Fetch what is missing of all mixes; one host is asked for one thing at a time, several hosts side by side."""
        async with Fetcher(self._spec) as fetcher:
            await asyncio.gather(*(self._fetch_mix(mix, of, fetcher) for mix, of in self._spec.mixes.items()))

    async def _fetch_mix(self, mix: str, sources: list[Source], fetcher: Fetcher) -> None:
        # Files that somebody deleted are got again, whether or not a source still lists them.
        lost = [_candidate(r) for r in self._folder.manifest if r.mix == mix and self._folder.missing(r)]
        await self._fetch(mix, lost, fetcher)
        for source in sources:
            if self._room(mix) == 0:
                break
            try:
                candidates = await list_candidates(source, self._spec, fetcher)
            except FetchError as error:
                self.problems.append(f"{mix}, {describe(source)}: {error}")
                continue
            await self._fetch(mix, candidates, fetcher)

    async def _fetch(self, mix: str, candidates: list[Candidate], fetcher: Fetcher) -> None:
        due = self._due(mix, candidates)
        await asyncio.gather(*(self._work(mix, due, fetcher) for _ in range(_WORKERS_A_MIX)))

    def _room(self, mix: str) -> int:
        """Pictures that the mix may still get."""
        return max(0, self._spec.limit - self._got[mix])

    def _due(self, mix: str, candidates: list[Candidate]) -> Iterator[Candidate]:
        """The candidates that are to be asked for in this call."""
        for candidate in candidates:
            key = mix, candidate.url
            if key not in self._asked and self._is_due(self._folder.manifest.find(*key)):
                self._asked.add(key)
                yield candidate

    def _is_due(self, record: Record | None) -> bool:
        if record is None or record.state is State.FAILED or self._folder.missing(record):
            return True
        # One that was too small may be large enough by now.
        return record.reason.startswith(_TOO_SMALL) and min(record.size or [0]) >= self._spec.min_side

    async def _work(self, mix: str, due: Iterator[Candidate], fetcher: Fetcher) -> None:
        """Take one candidate after the other, never more at once than there is room for."""
        while self._busy[mix] < self._room(mix) and (candidate := next(due, None)):
            self._busy[mix] += 1
            await self._take(mix, candidate, fetcher)
            self._busy[mix] -= 1

    async def _take(self, mix: str, candidate: Candidate, fetcher: Fetcher) -> None:
        known = Record(labels=mix.split("+"), state=State.FAILED, **asdict(candidate))
        manifest = self._folder.manifest
        try:
            content = await fetcher.get(candidate.url)
            async with self._decoding:
                picture = await asyncio.to_thread(examine, content)
        except (LastingError, Unfit) as error:
            manifest.put(_changed(known, state=State.DROPPED, reason=str(error)))
        except FetchError as error:
            before = manifest.find(mix, candidate.url)
            # One that was kept, and whose file is gone, stays known as such: its choice waits until it is back.
            if before is None or before.state is not State.KEPT:
                manifest.put(_changed(known, reason=str(error)))
            self.problems.append(f"{mix}, {candidate.url}: {error}")
        else:
            # Nothing else runs from the comparison with all others to the new record.
            known = _changed(known, sha256=picture.sha256, size=list(picture.size), phash=picture.phash)
            reason = _unwanted(picture, known, manifest, self._spec)
            if reason:
                manifest.put(_changed(known, state=State.DROPPED, reason=reason))
            else:
                name = file_name(mix, picture.sha256, picture.suffix)
                self._folder.add(_changed(known, state=State.KEPT, file=name), content)
                self._got[mix] += 1
                self.new[mix] += 1
        if len(self._asked) % _PROGRESS_EVERY == 0:
            self._report(f"{len(self._asked)} addresses asked, {self.new.total()} new pictures")


def _unwanted(picture: Picture, known: Record, manifest: Manifest, spec: Spec) -> str:
    """Why a picture is not wanted, or ""."""
    width, height = picture.size
    if min(width, height) < spec.min_side:
        return f"{_TOO_SMALL}: {width} × {height}"
    for other in manifest:
        if not other.got or other.phash is None or (other.mix, other.url) == (known.mix, known.url):
            continue
        if other.sha256 == picture.sha256:
            return f"duplicate: the same file as {other.file}"
        if near(other.phash, picture.phash):
            return f"near-duplicate: of {other.file}"
    return ""


def _changed(record: Record, **changes: object) -> Record:
    return Record.model_validate(record.model_dump() | changes)


def _candidate(record: Record) -> Candidate:
    return Candidate(record.url, record.through, record.page, record.licence, record.author)


def _summary(spec: Spec, folder: Folder, call: _Call) -> Summary:
    states: dict[str, Counter[State]] = {mix: Counter() for mix in spec.mixes}
    for record in folder.manifest:
        states.setdefault(record.mix, Counter())[State.FAILED if folder.missing(record) else record.state] += 1
    dropped = Counter(r.reason.partition(":")[0] for r in folder.manifest if r.state is State.DROPPED)
    return Summary(states, call.new, dropped, call.problems)
