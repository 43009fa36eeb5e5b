"""kdasr: distil a full-context transducer recogniser into a chunked streaming one."""

__version__ = "0.1.0"
