"""Fingerprints that two people can read to each other: six words for the first 48 bits of a SHA-256.

The list is fixed: word number `n` stands for byte `n`. It is part of the protocol.
"""

from __future__ import annotations

_TEXT = """
acid acorn actor agent alarm album alley amber angle ankle apple apron arch arena arrow atlas
attic autumn axle bacon badge bagel baker ballet bamboo banjo barn basil basket beach beaver bell
bench berry bishop blade blanket bonus border bottle branch bread brick bridge broom bucket bugle butter
button cabin cactus camel canal candle canoe carbon cargo carpet castle cedar cello chalk cherry chess
cider circus clay clock cloud clover cobalt coffee comet copper coral cotton crane crater crayon cricket
crown cube curtain dagger daisy dance delta denim desert diary dinner dolphin donkey dragon drum eagle
easel echo elbow elk ember engine envelope fabric falcon farmer feather fence fern ferry fiddle finger
flame flute forest fossil fox galaxy garden garlic gecko ginger glacier globe glove goblet gold goose
grape gravel guitar hammer harbor harp hazel helmet heron hockey honey horizon hotel island ivory jacket
jaguar jasmine jelly jewel jungle kayak kettle kidney kitten koala ladder lagoon lantern laser lemon lens
lily lion lizard llama lobster magnet mango maple marble market meadow melon mirror mitten monkey mosaic
motor mustard napkin nectar needle nickel noodle oasis ocean olive onion opera orange orbit orchid otter
oven oyster paddle palace panda paper parrot pebble pencil pepper piano pillow pilot planet plum pocket
pollen poplar prism puddle pumpkin puzzle quartz quiver rabbit radish raven ribbon river robot rocket saddle
salmon sandal satin scarf shadow shovel silver spider spoon squid statue sugar sunset table tiger timber
tomato tulip tunnel turtle umbrella valley velvet violin walnut willow window wizard yacht zebra zenith zinc
"""

WORDS = tuple(_TEXT.split())
"""256 words, alphabetical."""


def six_words(digest: bytes) -> str:
    """The first six bytes of a SHA-256 as words, blanks between them."""
    return " ".join(WORDS[byte] for byte in digest[:6])
