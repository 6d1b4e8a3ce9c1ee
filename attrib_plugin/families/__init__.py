"""What tokens mean in each model family: tables, no forward code."""

from attrib_plugin.families.base import Family, Member, Tower
from attrib_plugin.families.find import FAMILIES, find_member, image_towers
from attrib_plugin.families.layout import ReadoutArgument, TokenFacts, opened_with, token_layout, written

__all__ = [
    "FAMILIES",
    "Family",
    "Member",
    "ReadoutArgument",
    "TokenFacts",
    "Tower",
    "find_member",
    "image_towers",
    "opened_with",
    "token_layout",
    "written",
]
