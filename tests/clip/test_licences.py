import pytest

from src.clip.licences import OF_ARCHITECTURES, OF_TAGS, OWN, UNKNOWN, _backbones, licence
from src.clip.weights import LOCAL_DIR
from src.config import compose
from src.files import CONFIG_DIR, ROOT


@pytest.mark.parametrize(
    ("pretrained", "architecture", "backbone"),
    [
        ("openai", "RN50x64-quickgelu", "rn50"),
        ("laion400m_e32", "ViT-B-32", "laion_b32"),
        ("datacomp_l_s1b_b8k", "ViT-B-16", "datacomp_b16"),
        ("commonpool_m_s128m_b4k", "ViT-B-32", "datacomp_b16"),
        ("datacompdr", "MobileCLIP-S1", "mobileclip2_s0"),
        ("dfn5b", "ViT-H-14-quickgelu", "dfn_b16"),
        ("webli", "ViT-L-16-SigLIP2-256", "siglip2_b16"),
        ("metaclip_400m", "ViT-B-32-quickgelu", "metaclip_b16"),
        ("meta", "PE-Core-S-16-384", "pe_core_b16"),
        ("laion2b_s9b_b144k", "EVA02-E-14-plus", "eva02_b16"),
        (None, f"{LOCAL_DIR}{ROOT}/src/clip/tiny", OWN),
    ],
)
def test_weights_without_a_yaml_have_the_licence_of_their_publishers_others(
    pretrained, architecture, backbone
):
    assert licence(pretrained, architecture) == compose([f"backbone={backbone}"]).backbone.licence


@pytest.mark.parametrize(
    ("pretrained", "architecture"),
    [
        ("laion2b", "ViT-H-14-CLIPA-336"),
        ("datacomp1b", "ViTamin-B"),
        ("yfcc15m", "RN50-quickgelu"),
        (None, "PE-Core-B-16"),
        ("openai.pt", "RN50-quickgelu"),
        ("weights/laion", "ViT-B-32"),
        (None, "ViT-B-32"),
        (None, f"{LOCAL_DIR}/elsewhere/tiny"),
        (None, "hf-hub:owner/name"),
    ],
)
def test_no_licence_is_told_for_weights_that_are_not_known(pretrained, architecture):
    assert licence(pretrained, architecture) == UNKNOWN


def test_a_yaml_of_your_own_states_the_licence_of_its_weights(monkeypatch, tmp_path):
    (tmp_path / "backbone").mkdir()
    mine = "architecture: hf-hub:owner/name\npretrained: null\nlicence: mine\n"
    (tmp_path / "backbone/mine.yaml").write_text(mine)
    monkeypatch.setattr("src.clip.licences.CONFIG_DIR", tmp_path)
    monkeypatch.setattr("src.clip.licences._backbones", _backbones.__wrapped__)
    assert licence(None, "hf-hub:owner/name") == "mine"
    assert licence("other", "hf-hub:owner/name") == UNKNOWN


def test_every_beginning_leads_to_a_backbone():
    there = {path.stem for path in (CONFIG_DIR / "backbone").glob("*.yaml")}
    assert {OWN, *OF_TAGS.values(), *OF_ARCHITECTURES.values()} <= there
