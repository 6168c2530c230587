"""A plugin of pytest: that an example fails is enough, no smaller one is looked for; and none by chance."""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile("unshrunk", derandomize=True, phases=(Phase.explicit, Phase.generate))
settings.load_profile("unshrunk")
