import pytest
import torch

from images import brightness_encoder
from titer.data import ClassText
from titer.errors import InputError
from titer.models import zero_shot

CLASSES = (ClassText("dark", ("a dark picture",)), ClassText("bright", ("a bright picture", "something bright")))


def test_logits_are_scaled_cosines_of_averaged_texts() -> None:
    encoder = brightness_encoder()
    classifier = zero_shot(encoder, CLASSES)
    images = torch.rand(5, 3, 8, 8)
    words = torch.nn.functional.normalize(
        torch.stack([encoder.encode_text(list(text.texts)).mean(dim=0) for text in CLASSES]), dim=-1
    )
    assert torch.allclose(classifier(images), 100 * encoder.encode_image(images) @ words.T)
    assert classifier.classes == ("dark", "bright")


def test_words_decide_the_fingerprint() -> None:
    encoder = brightness_encoder()
    plain = zero_shot(encoder, CLASSES)
    assert plain.fingerprint == zero_shot(encoder, CLASSES, name="other").fingerprint
    assert plain.fingerprint != zero_shot(encoder, CLASSES, "a photo of {}").fingerprint
    assert plain.fingerprint != zero_shot(encoder, CLASSES[::-1]).fingerprint


def test_several_templates_are_averaged() -> None:
    encoder = brightness_encoder()
    both = zero_shot(encoder, CLASSES, "{} | not {}, but dark")
    texts = [[*text.texts, *(f"not {words}, but dark" for words in text.texts)] for text in CLASSES]
    means = torch.stack([encoder.encode_text(group).mean(dim=0) for group in texts])
    images = torch.rand(5, 3, 8, 8)
    expected = 100 * encoder.encode_image(images) @ torch.nn.functional.normalize(means, dim=-1).T
    assert torch.allclose(both(images), expected)


@pytest.mark.parametrize("template", ["no place", "{} and {}", "{name}", "{} | no place", "{} |"])
def test_a_template_has_one_place(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        zero_shot(brightness_encoder(), CLASSES, template)
