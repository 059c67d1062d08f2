"""Pure text machines: feed strings, get parts. They know no tokens, requests or sockets."""
