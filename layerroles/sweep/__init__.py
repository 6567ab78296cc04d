"""Sweeps: ask the same questions under every condition, and store answers in a run folder."""

from layerroles.sweep.estimation import Estimate as Estimate
from layerroles.sweep.estimation import TaskEstimate as TaskEstimate
from layerroles.sweep.estimation import estimate as estimate
from layerroles.sweep.reading import read as read
from layerroles.sweep.status import describe_unfinished as describe_unfinished
from layerroles.sweep.status import read_status as read_status
from layerroles.sweep.sweep import Sweep as Sweep
