import torch

from src.heads.mean_similarity import MeanSimilarity


def test_a_class_is_scored_by_its_mean_cosine_similarity_prompt_by_prompt():
    generator = torch.Generator().manual_seed(0)
    prompts = 7 * torch.randn(6, 5, generator=generator)
    label = torch.tensor([0, 0, 0, 1, 2, 2])
    images = torch.randn(4, 5, generator=generator)
    head = MeanSimilarity(prompts, label, logit_scale=30.0)
    for image, logits in zip(images, head(images), strict=True):
        for c in range(3):
            own = [prompt for prompt, of in zip(prompts, label.tolist(), strict=True) if of == c]
            similar = [torch.cosine_similarity(image, prompt, dim=0) for prompt in own]
            torch.testing.assert_close(logits[c], 30 * sum(similar) / len(own))
