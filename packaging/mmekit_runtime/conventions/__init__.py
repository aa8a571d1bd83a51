"""Models that were written for SageMaker's or DJL's own conventions, not for mmekit.

``option.entryPoint=mmekit_runtime.conventions`` serves them in every engine; ``mme pack`` writes
that line. ``option.convention`` says what they were made for:

- ``djl_python.sklearn_handler`` or ``djl_python.xgboost_handler``, DJL 0.36's handlers without
  code, with the functions of model.py where there are any;
- the path of a script, such as ``code/inference.py`` or ``model.py``: one with SageMaker's
  ``model_fn``, ``input_fn``, ``predict_fn``, ``output_fn`` or ``transform_fn``, with DJL's
  decorators, or with a ``handle`` of its own.

Without it, what is in the folder decides. Each request is answered by itself.
"""

from mmekit_runtime.conventions.entry_point import EntryPoint
from mmekit_runtime.conventions.script import provide_decorators

# Now, as DJL's engine runs model.py once more by itself, right after this import.
provide_decorators()

handle = EntryPoint()
