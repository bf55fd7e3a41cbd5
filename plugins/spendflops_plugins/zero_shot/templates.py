"""Named sets of prompts: sentences with ``{}`` in the place of a class's name.

``clip_80`` and ``clip_7`` are those of CLIP's evaluation on ImageNet (Radford et al. 2021, arXiv 2103.00020, section
3.1.4; ``openai/CLIP``, notebook "Prompt Engineering for ImageNet"). Of the 80, 76 are 38 phrases with either article.
"""

from __future__ import annotations

_PHRASES = (
    "a bad photo of * {}.",
    "a black and white photo of * {}.",
    "a blurry photo of * {}.",
    "a bright photo of * {}.",
    "a close-up photo of * {}.",
    "a cropped photo of * {}.",
    "a dark photo of * {}.",
    "a doodle of * {}.",
    "a drawing of * {}.",
    "a good photo of * {}.",
    "a jpeg corrupted photo of * {}.",
    "a low resolution photo of * {}.",
    "a painting of * {}.",
    "a photo of * clean {}.",
    "a photo of * cool {}.",
    "a photo of * dirty {}.",
    "a photo of * hard to see {}.",
    "a photo of * large {}.",
    "a photo of * nice {}.",
    "a photo of * small {}.",
    "a photo of * weird {}.",
    "a photo of * {}.",
    "a pixelated photo of * {}.",
    "a rendering of * {}.",
    "a rendition of * {}.",
    "a sculpture of * {}.",
    "a sketch of * {}.",
    "a tattoo of * {}.",
    "art of * {}.",
    "graffiti of * {}.",
    "itap of * {}.",
    "* cartoon {}.",
    "* embroidered {}.",
    "* origami {}.",
    "* plastic {}.",
    "* plushie {}.",
    "* toy {}.",
    "* {} in a video game.",
)

TEMPLATES = {
    "photo": ("a photo of a {}.",),
    "clip_7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    "clip_80": (
        *(phrase.replace("*", article) for phrase in _PHRASES for article in ("a", "the")),
        "a photo of many {}.",
        "a photo of my {}.",
        "a photo of one {}.",
        "itap of my {}.",
    ),
}
