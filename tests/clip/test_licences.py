import pytest

from src.clip.licences import NOTES, OF_ARCHITECTURES, OWN, UNKNOWN, licence
from src.clip.weights import LOCAL_DIR
from src.files import ROOT


@pytest.mark.parametrize(
    ("pretrained", "architecture", "note"),
    [
        ("openai", "RN50-quickgelu", NOTES["openai"]),
        ("laion2b_s34b_b79k", "ViT-B-32", NOTES["laion"]),
        ("datacomp_xl_s13b_b90k", "ViT-B-16", NOTES["datacomp_"]),
        ("datacompdr", "MobileCLIP-S1", NOTES["datacompdr"]),
        ("dfndr2b", "MobileCLIP2-S0", NOTES["dfn"]),
        ("dfn2b", "ViT-B-16-quickgelu", NOTES["dfn"]),
        ("webli", "ViT-B-16-SigLIP2", NOTES["webli"]),
        ("meta", "PE-Core-B-16", OF_ARCHITECTURES["PE-Core"]),
        ("laion2b_s9b_b144k", "EVA02-E-14-plus", OF_ARCHITECTURES["EVA"]),
        ("laion2b", "ViT-H-14-CLIPA-336", UNKNOWN),
        ("datacomp1b", "ViTamin-B", UNKNOWN),
        (None, "PE-Core-B-16", UNKNOWN),
        ("openai.pt", "RN50-quickgelu", UNKNOWN),
        ("weights/laion", "ViT-B-32", UNKNOWN),
        (None, "ViT-B-32", UNKNOWN),
        (None, f"{LOCAL_DIR}{ROOT}/src/clip/tiny", OWN),
        (None, f"{LOCAL_DIR}/elsewhere/tiny", UNKNOWN),
    ],
)
def test_a_licence_is_told_for_known_weights_only(pretrained, architecture, note):
    assert licence(pretrained, architecture) == note
