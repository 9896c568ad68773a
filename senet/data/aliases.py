"""Labels as people write them, and the classes that they mean."""

import re
from collections import defaultdict
from collections.abc import Sequence

from senet.data.pictures import printable
from senet.errors import InputError

_SHOWN = 8
# ImageNet's names, such as n02113799-standard_poodle.
_SYNSET = re.compile(r"n\d{8}-(.+)")


class Labels:
    """Finds the class that a label means: by its name, by a given alias, or by the name in `n02113799-NAME`.

    There, capitals and whether words are separated by `_`, `-` or spaces make no difference.
    """

    def __init__(self, classes: Sequence[str], aliases: Sequence[str] = ()) -> None:
        """
        Args:
            classes: names, sorted.
            aliases: each `LABEL=CLASS`.

        Raises:
            InputError: one of `aliases` is not of that form, has no class, or says what another or a class says.
        """
        self._classes = classes
        self._automatic: dict[str, list[str]] = defaultdict(list)
        for name in classes:
            if match := _SYNSET.fullmatch(name):
                self._automatic[_plain(match[1])].append(name)
        self.given: dict[str, str] = {}
        for alias in aliases:
            label, equals, name = (part.strip() for part in alias.partition("="))
            where = f"--alias {printable(alias)}"
            if not equals or not label or not name or "+" in label or ";" in label:
                raise InputError(f"{where}: must be LABEL=CLASS, the label without `+` and `;`")
            if label in classes:
                raise InputError(f"{where}: `{printable(label)}` is a class itself")
            found = self.resolve(name, where)
            if self.given.setdefault(label, found) != found:
                raise InputError(f"{where}: `{printable(label)}` is an alias of `{self.given[label]}` already")

    def resolve(self, label: str, where: str) -> str:
        """The class that `label` means. Raises InputError, beginning with `where`, if it is none or several."""
        if label in self._classes:
            return label
        if label in self.given:
            return self.given[label]
        found = self._automatic.get(_plain(label), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{where}: label `{printable(label)}` may be {_listed(found, ' or ')}; say which with "
                f"--alias {printable(label)}=CLASS"
            )
        similar = [name for name in self._classes if _SYNSET.fullmatch(name) and _plain(label) in _plain(name)]
        if similar and _plain(label):
            raise InputError(
                f"{where}: label `{printable(label)}` is none of the classes; if it is {_listed(similar, ' or ')}, say "
                f"so with --alias {printable(label)}=CLASS"
            )
        raise InputError(f"{where}: label `{printable(label)}` is none of the classes: {_listed(self._classes, ', ')}")

    def parse(self, text: str, separator: str, where: str) -> tuple[str, ...]:
        """The classes that the labels in `text` mean, sorted.

        Raises:
            InputError: a label is empty, stands for no single class, or two stand for the same.
        """
        labels = [label.strip() for label in text.split(separator)]
        if not all(labels):
            raise InputError(f"{where}: empty label in `{printable(text)}`; labels are separated by `{separator}`")
        found = sorted(self.resolve(label, where) for label in labels)
        if len(set(found)) < len(found):
            raise InputError(f"{where}: a label stands twice in `{printable(text)}`")
        return tuple(found)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def _listed(names: Sequence[str], separator: str) -> str:
    shown = separator.join(names[:_SHOWN])
    return shown + (f", … ({len(names)} in all)" if len(names) > _SHOWN else "")
