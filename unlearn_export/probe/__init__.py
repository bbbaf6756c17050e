"""Attacks on an edited encoder, each with the base as control: what brings the concept back, and at what cost."""

from .run import Probe, attacks, make_attacks, probe, table
from .subject import Attack, Outcome, Subject, Target

__all__ = ["Attack", "Outcome", "Probe", "Subject", "Target", "attacks", "make_attacks", "probe", "table"]
