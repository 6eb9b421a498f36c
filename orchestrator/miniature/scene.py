"""What a photo shows besides the person, and the words for it: place, framing, light and tilt of the head."""

from dataclasses import dataclass

import numpy as np

from orchestrator.miniature import draw

PLACES = {
    "in a studio": ((160, 160, 160), (120, 120, 120)),
    "at the beach": ((130, 165, 195), (185, 160, 125)),
    "in the garden": ((125, 150, 115), (75, 110, 70)),
    "inside a cafe": ((125, 95, 75), (90, 65, 50)),
    "at night": ((45, 50, 80), (25, 25, 45)),
    "on snow": ((170, 178, 190), (195, 198, 202)),
    "on a street": ((150, 150, 155), (85, 85, 90)),
    "under a sunset": ((205, 150, 115), (110, 80, 100)),
}
"""The background's colours at the top and at the bottom."""
FRAMINGS = {"close-up": (0.78, 0.86), "portrait": (0.69, 0.76), "upper body": (0.62, 0.67)}
"""The face's width as a share of the image's."""
LIGHTS = {"bright light": (1.05, 1.14), "soft light": (0.94, 1.04), "dim light": (0.85, 0.91)}
TILTS = {"tilted left": (-12, -5), "looking straight": (-4, 4), "tilted right": (5, 12)}
"""Degrees."""
PHRASES = (tuple(FRAMINGS), tuple(PLACES), tuple(LIGHTS), tuple(TILTS))
"""Per kind, in a caption's order. No word occurs in two kinds, so a caption's meaning is the sum of its phrases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything in a photo except the person. phrases: one of each kind in PHRASES."""

    phrases: tuple[str, ...]
    pose: draw.Pose
    backdrop: draw.Backdrop

    def caption(self, subject: str) -> str:
        """For example `photo of ohwx person, close-up, on snow, soft light, tilted left`."""
        return ", ".join((f"photo of {subject}", *self.phrases))


def drawn(seed: int) -> Scene:
    """One of all possible scenes."""
    rng = np.random.default_rng([seed, 99])
    framing, place, light, tilt = (str(rng.choice(names)) for names in PHRASES)
    pose = draw.Pose(
        x=rng.uniform(0.44, 0.56),
        y=rng.uniform(0.47, 0.58),
        size=rng.uniform(*FRAMINGS[framing]),
        tilt=rng.uniform(*TILTS[tilt]),
    )
    top, bottom = PLACES[place]
    backdrop = draw.Backdrop(top=top, bottom=bottom, light=rng.uniform(*LIGHTS[light]), seed=seed)
    return Scene(phrases=(framing, place, light, tilt), pose=pose, backdrop=backdrop)


def photo(person: draw.Array, scene: Scene, *, px: int) -> draw.Pixels:
    """A square portrait, `px` wide."""
    return draw.photo([(person, scene.pose)], scene.backdrop, px=px)
