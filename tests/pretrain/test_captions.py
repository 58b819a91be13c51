import pytest

from src.pretrain.captions import ATTRIBUTES, CLASSES, captions


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('a photo of the number: "7".', "7"),
        ("a photo of the letter g.", "g"),
        ("a photo of a seven.", "7"),
        ("the italic letter q", "q"),
        ("a 3.", "3"),
    ],
)
def test_caption_is_there_with_its_class(text: str, name: str):
    assert [CLASSES[caption.label] for caption in captions() if caption.text == text] == [name]


def test_no_caption_occurs_twice():
    texts = [caption.text for caption in captions()]
    assert len(set(texts)) == len(texts)


def test_caption_states_its_attribute_and_no_other():
    for caption in captions():
        stated = {word for word in ATTRIBUTES if word and f"{word} " in caption.text}
        assert stated == {ATTRIBUTES[caption.attribute]} - {""}


def test_captions_are_ordered_by_label_then_attribute():
    order = [(caption.label, caption.attribute) for caption in captions()]
    assert order == sorted(order)
    assert {label for label, attribute in order if not attribute} == set(range(len(CLASSES)))
