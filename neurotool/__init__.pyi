from neurotool.api.comparing import compare as compare
from neurotool.api.distilling import distil as distil
from neurotool.api.executors import EXECUTORS as EXECUTORS
from neurotool.api.model import Model as Model
from neurotool.api.model import open_model as open
from neurotool.executor import Run as Run

__version__: str
PUBLIC: dict[str, str]
__all__ = ["EXECUTORS", "PUBLIC", "Model", "Run", "__version__", "compare", "distil", "open"]
