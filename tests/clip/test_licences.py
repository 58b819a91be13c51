import pytest

from src.clip.licences import NOTES, OWN, UNKNOWN, licence
from src.clip.weights import LOCAL_DIR
from src.files import ROOT


@pytest.mark.parametrize(
    ("pretrained", "architecture", "note"),
    [
        ("openai", "RN50-quickgelu", NOTES["openai"]),
        ("laion2b_s34b_b79k", "ViT-B-32", NOTES["laion"]),
        ("openai.pt", "RN50-quickgelu", UNKNOWN),
        ("weights/laion", "ViT-B-32", UNKNOWN),
        (None, "ViT-B-32", UNKNOWN),
        (None, f"{LOCAL_DIR}{ROOT}/src/clip/tiny", OWN),
        (None, f"{LOCAL_DIR}/elsewhere/tiny", UNKNOWN),
    ],
)
def test_a_licence_is_told_for_known_weights_only(pretrained, architecture, note):
    assert licence(pretrained, architecture) == note
