"""What all methods share: the Captum interface, the forward pass under capture, and layers read in blocks."""

from attrib_plugin.methods.base.attribution import AttentionAttribution
from attrib_plugin.methods.base.blocks import RowBlock
from attrib_plugin.methods.base.caller import opening_of, warn_of_silence
from attrib_plugin.methods.base.calling import check_call
from attrib_plugin.methods.base.encoder_decoder import check_decoder_ids, encoder_with_decoder
from attrib_plugin.methods.base.evidence import SIGNS, Sign, evidence_by_sign, net_evidence, weighted_by_sign
from attrib_plugin.methods.base.forward_pass import Query, Subject, Tap
from attrib_plugin.methods.base.input_relevance import Destination, InputRelevance
from attrib_plugin.methods.base.layers import AttentionLayer, from_the_top, layers_of, to_the_input
from attrib_plugin.methods.base.pairs import check_pairs, find_towers, image_form, two_towers
from attrib_plugin.methods.base.propagation import Propagation, find_composite
from attrib_plugin.methods.base.targets import Target, check_targets, unwrap_output
from attrib_plugin.methods.base.tokens import input_tokens
from attrib_plugin.methods.base.windows import on_patches, tokens_at

__all__ = [
    "SIGNS",
    "AttentionAttribution",
    "AttentionLayer",
    "Destination",
    "InputRelevance",
    "Propagation",
    "Query",
    "RowBlock",
    "Sign",
    "Subject",
    "Tap",
    "Target",
    "check_call",
    "check_decoder_ids",
    "check_pairs",
    "check_targets",
    "encoder_with_decoder",
    "evidence_by_sign",
    "find_composite",
    "find_towers",
    "from_the_top",
    "image_form",
    "input_tokens",
    "layers_of",
    "net_evidence",
    "on_patches",
    "opening_of",
    "to_the_input",
    "tokens_at",
    "two_towers",
    "unwrap_output",
    "warn_of_silence",
    "weighted_by_sign",
]
