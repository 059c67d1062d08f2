"""A conversation as a file: a request's JSON, or Markdown for people."""

import json
from pathlib import Path

from lmx.cli.conversation import Conversation
from lmx.cli.exits import CommandFailed, Exit


def save_conversation(conversation: Conversation, name: str) -> Path:
    """Write it. A file that is there already stays.

    Raises:
        CommandFailed: There is no name, the file is there, or it cannot be written.
    """
    if not name:
        raise CommandFailed("/save needs the name of a file", Exit.USAGE, "usage")
    path = Path(name).expanduser()
    document = conversation.document()
    if path.suffix == ".json":
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    else:
        parts = [f"## {one['role']}\n\n{one['content']}\n" for one in document["messages"]]
        text = "\n".join([f"# {document['model']}\n", *parts])
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}") from error
    return path
