"""The prompts of a class: templates filled with its name, or what was written about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.data.text_files import listing, read_json_object, readable
from src.errors import UserError


def make_prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Put every class name, its underscores read as spaces, into every template.

    Raises:
        UserError: there is no template, or one does not hold exactly one `{}`.
    """
    if not templates:
        raise UserError("there is no prompt template: give at least one, as 'a photo of a {}.'")
    for template in map(str, templates):
        if template.count("{}") != 1:
            raise UserError(
                f"the prompt template {template!r} must hold {{}} exactly once: it is where the "
                "class name goes."
            )
    return [
        [template.replace("{}", readable(name)) for template in templates] for name in class_names
    ]


def read_prompts(path: str, class_names: Sequence[str]) -> list[list[str]]:
    """Read a file with the prompts of each class: JSON, `{class name: [prompt, ...]}`.

    The form in which CuPL (Pratt et al., ICCV 2023) published its prompts. A class is found by its
    name or, failing that, by the only name that differs from it in nothing but upper case and in
    underscores for spaces. Prompts of further classes are ignored: a file for all of ImageNet
    serves a dataset of some of its classes.

    Returns:
        One prompt or more for every class, in the order of `class_names`.

    Raises:
        UserError: the file cannot be read, a class has no prompts, or two have the same.
    """
    return _distinct(path, class_names, _of_classes(path, class_names, "dataset.prompts"))


def read_descriptors(path: str, class_names: Sequence[str]) -> list[list[str]]:
    """Read a file with descriptors of each class: JSON, `{class name: [descriptor, ...]}`.

    The form in which DCLIP (Menon and Vondrick, ICLR 2023) published what a language model wrote,
    as `{"hen": ["two legs", "a small, red comb"]}`, and its sentences: "hen, which has two legs".
    A class is found as by `read_prompts`.

    Raises:
        UserError: the file cannot be read, a class has no descriptors, or two have the same name
            and others.
    """
    found = _of_classes(path, class_names, "dataset.descriptors")
    sentences = [
        [f"{readable(name)}, {_clause(descriptor)}" for descriptor in descriptors]
        for name, descriptors in zip(class_names, found, strict=True)
    ]
    return _distinct(path, class_names, sentences)


def _clause(descriptor: str) -> str:
    """Turn a descriptor into a clause, by the first letters of its words, as the release does."""
    if descriptor.startswith(("has", "often", "typically", "may", "can")):
        return f"which {descriptor}"
    return f"which {'is' if descriptor.startswith(('a', 'used')) else 'has'} {descriptor}"


def _of_classes(path: str, class_names: Sequence[str], setting: str) -> list[list[str]]:
    content = read_json_object(Path(path), setting)
    alike: dict[str, list[str]] = {}
    for key in content:
        alike.setdefault(_folded(key), []).append(key)
    found = {
        name: [name] if name in content else alike.get(_folded(name), []) for name in class_names
    }
    missing = [name for name, keys in found.items() if len(keys) != 1]
    if missing:
        others = sorted(content.keys() - set(class_names))
        raise UserError(
            f"{path} has no prompts for {listing(missing, others)}, or several names alike: "
            f"{setting} must name every class of the dataset."
        )
    keys = [found[name][0] for name in class_names]
    for key in keys:
        prompts = content[key]
        if not (isinstance(prompts, list) and prompts and all(map(_is_text, prompts))):
            raise UserError(
                f"{path}: {key!r} must have a list of one prompt or more, as "
                f'["A photo of a {key}."], not {prompts!r}.'
            )
    return [content[key] for key in keys]


def _distinct(path: str, class_names: Sequence[str], prompts: list[list[str]]) -> list[list[str]]:
    classes: dict[tuple[str, ...], list[str]] = {}
    for name, of_class in zip(class_names, prompts, strict=True):
        classes.setdefault(tuple(of_class), []).append(name)
    if same := [names for names in classes.values() if len(set(names)) > 1]:
        raise UserError(
            f"{path} has the same prompts for {listing(same[0])}: only one of them could ever be "
            "predicted. Give each its own."
        )
    return prompts


def _folded(name: str) -> str:
    return readable(name).casefold()


def _is_text(prompt: Any) -> bool:
    return isinstance(prompt, str) and bool(prompt.strip())
