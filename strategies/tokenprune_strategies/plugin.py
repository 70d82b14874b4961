"""Registers the strategies that ship with tokenprune, by the route any plugin takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenprune.interface.strategy import PruningStrategy
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune_strategies.adaptprune import AdaptPrune
from tokenprune_strategies.aim import AIM
from tokenprune_strategies.apet import ApET
from tokenprune_strategies.baselines import Random, Uniform
from tokenprune_strategies.cdpruner import CDPruner
from tokenprune_strategies.cdpruner_clip import CDPrunerClip
from tokenprune_strategies.cls_inflection import ClsInflection
from tokenprune_strategies.covipal import CoViPALStyle
from tokenprune_strategies.dart import DART
from tokenprune_strategies.divprune import DivPrune
from tokenprune_strategies.dycoke import DyCoke
from tokenprune_strategies.dyvte import DyVTE
from tokenprune_strategies.evoprune import EvoPrune
from tokenprune_strategies.evs import EVS
from tokenprune_strategies.fastervlm import FasterVLM
from tokenprune_strategies.fastv import FastV
from tokenprune_strategies.fastvid import FastVID
from tokenprune_strategies.feather import Feather
from tokenprune_strategies.flashvid import FlashVID
from tokenprune_strategies.fopru import FoPru
from tokenprune_strategies.framefusion import FrameFusion
from tokenprune_strategies.gprune import GPrune
from tokenprune_strategies.hiprune import HiPrune
from tokenprune_strategies.holitom import HoliTom
from tokenprune_strategies.holov import HoloV
from tokenprune_strategies.ipcv import IPCV
from tokenprune_strategies.mmtok import MMTok
from tokenprune_strategies.otprune import OTPrune
from tokenprune_strategies.pact import PACT
from tokenprune_strategies.pool import Pool
from tokenprune_strategies.prumerge import PruMerge
from tokenprune_strategies.prunesid import PruneSID
from tokenprune_strategies.prunevid import PruneVid
from tokenprune_strategies.pyramiddrop import PyramidDrop
from tokenprune_strategies.quecc import QueCC
from tokenprune_strategies.scissor import Scissor
from tokenprune_strategies.scope import Scope
from tokenprune_strategies.sparsevlm import SparseVLM, SparseVLM2
from tokenprune_strategies.sttm import Sttm
from tokenprune_strategies.tome import ToMe
from tokenprune_strategies.trim import Trim
from tokenprune_strategies.v2drop import V2Drop
from tokenprune_strategies.vidcom2 import VidCom2
from tokenprune_strategies.visionzip import VisionZip
from tokenprune_strategies.vispruner import VisPruner
from tokenprune_strategies.vistog import VisToG
from tokenprune_strategies.vlmpruner import VLMPruner
from tokenprune_strategies.vscan import VScan
from tokenprune_strategies.vtw import VTW


@hookimpl
def register_strategies(register: Callable[[type[PruningStrategy[Any]]], None]) -> None:
    """Register them all."""
    for strategy in (
        EvoPrune,
        ToMe,
        FoPru,
        VisToG,
        QueCC,
        CoViPALStyle,
        DyVTE,
        IPCV,
        FastV,
        PruneVid,
        ClsInflection,
        VScan,
        FasterVLM,
        VisPruner,
        PyramidDrop,
        DivPrune,
        VisionZip,
        DART,
        CDPruner,
        CDPrunerClip,
        Trim,
        SparseVLM,
        SparseVLM2,
        Scope,
        HoloV,
        HiPrune,
        EVS,
        VidCom2,
        DyCoke,
        GPrune,
        OTPrune,
        VTW,
        Pool,
        PruMerge,
        FastVID,
        HoliTom,
        V2Drop,
        Feather,
        MMTok,
        ApET,
        Scissor,
        AIM,
        FrameFusion,
        PACT,
        FlashVID,
        PruneSID,
        AdaptPrune,
        VLMPruner,
        Sttm,
        Random,
        Uniform,
    ):
        register(strategy)
