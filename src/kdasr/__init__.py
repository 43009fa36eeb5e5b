"""kdasr: distill a full-context transducer recognizer into a chunked streaming one."""

__version__ = "0.1.0"
