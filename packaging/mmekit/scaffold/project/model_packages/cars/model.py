from mmekit_runtime import SklearnHandler

handle = SklearnHandler("cars.skops")
