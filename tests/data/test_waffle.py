from src.data.waffle import PAIRS, waffle_prompts


def test_every_class_has_the_same_random_descriptors_in_pairs():
    prompts = waffle_prompts(["hot_dog", "cat"], seed=1)
    assert [len(of_class) for of_class in prompts] == [2 * PAIRS] * 2
    for first, second in zip(*prompts, strict=True):
        assert first.startswith("A photo of a hot dog, which has ")
        assert first.replace("hot dog", "cat") == second
    descriptors = [prompt.partition("which has ")[2] for prompt in prompts[0]]
    words, characters = descriptors[::2], descriptors[1::2]
    assert [[len(w) for w in d.split()] for d in words] == [
        [len(w) for w in d.split()] for d in characters
    ]


def test_the_descriptors_depend_on_the_seed_alone():
    assert waffle_prompts(["cat"], 1) == waffle_prompts(["cat"], 1) != waffle_prompts(["cat"], 2)
