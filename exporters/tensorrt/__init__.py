"""ONNX -> TensorRT and TensorRT-RTX engines, by one builder for both.

    library.py       which of the two is here, and what it can build for
    api.py           the names of their Python modules that are used, the same in both
    profiles.py      PURE: optimisation profiles from shapes and rows
    options.py       PURE: what else can be chosen
    build.py         parse, profile, build, write; the order of things
    build_log.py     the library's words: errors that name the ONNX node, and progress
    engine_cache.py  what was built once is not built again
    record.py        PURE: what an engine is, in words, beside its plan
    read_back.py     is this plan the engine that its record says?
    session.py       runs an engine on a GPU

Both build strongly typed networks: each tensor has the type that the ONNX graph gives it, so an
FP16 engine comes from an FP16 graph and nothing is chosen here. TensorRT-RTX builds on a CPU for
the GPUs named; TensorRT builds on the GPU that will run the engine.
"""
