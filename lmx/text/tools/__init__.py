"""How models spell tool calls: one module per family, each a few facts and one parse function.

Theory of operation. A `Family` says where a call begins and ends (`Rule`) and how the text
between is read; `lmx.text.reader` does the streaming for all of them. From an opening marker on,
text is kept until `BlockScanner` finds the block's end, which is never inside a quoted stretch: an
argument may hold the very markup that ends calls. Then `Rule.parse` sees the whole body at once
and gives calls, or None for anything it does not understand; the raw text is shown then. So a
parser never sees half a call and never raises. Harmony is no set of markers but a message format
and brings its own reader.
"""
