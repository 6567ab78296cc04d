"""Answer requests to a model under many conditions, and estimate the time and memory needed."""

from layerroles.engine.engine import Engine as Engine
from layerroles.engine.engine import LogLikelihoods as LogLikelihoods
from layerroles.engine.executor_choice import ExecutorName as ExecutorName
from layerroles.engine.executor_choice import check_executor as check_executor
from layerroles.engine.executor_trial import N_NOISE_DRAWS as N_NOISE_DRAWS
from layerroles.engine.executor_trial import N_TRIAL_REQUESTS as N_TRIAL_REQUESTS
from layerroles.engine.executor_trial import TRIAL_CONTEXT as TRIAL_CONTEXT
from layerroles.engine.executor_trial import TRIAL_CONTINUATION as TRIAL_CONTINUATION
from layerroles.engine.executor_trial import ConditionKind as ConditionKind
from layerroles.engine.executor_trial import condition_kind as condition_kind
from layerroles.engine.greedy_decoding import Decoding as Decoding
from layerroles.engine.greedy_decoding import Stops as Stops
from layerroles.engine.greedy_decoding import choose_greedy as choose_greedy
from layerroles.engine.planning.measured_speed import measure_speed as measure_speed
from layerroles.engine.planning.measured_speed import (
    measure_text_seconds as measure_text_seconds,
)
from layerroles.engine.planning.memory import FREE_MEMORY_SHARE as FREE_MEMORY_SHARE
from layerroles.engine.planning.memory import Budget as Budget
from layerroles.engine.planning.memory import Shape as Shape
from layerroles.engine.planning.memory import memory_budget as memory_budget
from layerroles.engine.planning.memory import parse_memory as parse_memory
from layerroles.engine.planning.pass_cost import Speed as Speed
from layerroles.engine.planning.pass_cost import Work as Work
from layerroles.engine.planning.pass_cost import reading_cost as reading_cost
from layerroles.engine.planning.plan import Computed as Computed
from layerroles.engine.planning.plan import Plan as Plan
from layerroles.engine.planning.published_speeds import BANDWIDTH_SHARE as BANDWIDTH_SHARE
from layerroles.engine.planning.published_speeds import MEASURED_SHARE as MEASURED_SHARE
from layerroles.engine.planning.published_speeds import PRODUCT_SHARE as PRODUCT_SHARE
from layerroles.engine.planning.published_speeds import loading_dtype as loading_dtype
from layerroles.engine.planning.published_speeds import published_device as published_device
from layerroles.engine.requests import Requests as Requests
from layerroles.engine.requests import Score as Score
from layerroles.engine.requests import Scored as Scored
from layerroles.engine.requests import Writing as Writing
from layerroles.engine.requests import Written as Written
from layerroles.engine.requests import empty_context_ids as empty_context_ids
from layerroles.engine.requests import encode_scored as encode_scored
from layerroles.engine.requests import encode_written as encode_written
