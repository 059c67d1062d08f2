"""``lmx chat``: one question and its answer, or a conversation at the terminal.

Ctrl-C stops an answer and not the program; at the prompt a second one in a row ends it. Without a
terminal the answer alone goes to standard output, so that it can be piped on.
"""

import sys
from contextlib import closing
from typing import Annotated

import typer

from lmx.cli.arguments import LoadedOption
from lmx.cli.chat_prompt import ChatPrompt, history_file
from lmx.cli.conversation import Conversation, Kind, Options, Turn, turn_document
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.session import Session, command
from lmx.cli.words import printable

ANY_MODEL = "auto"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add_commands(app: typer.Typer) -> None:
    """Put it on the command line."""
    command(app)(chat)


def chat(
    session: Session,
    question: Annotated[
        list[str] | None,
        typer.Argument(help="What to ask; without it, standard input or a conversation."),
    ] = None,
    *,
    model: LoadedOption = None,
    system: Annotated[str, typer.Option("--system", "-s", help="What it is told first.")] = "",
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show tokens and speed.")
    ] = False,
) -> None:
    """Talk with a model."""
    options = Options(model=model or ANY_MODEL, system=system, temperature=temperature)
    conversation = Conversation(session.client, options)
    if not question and session.is_terminal and not session.as_json:
        with closing(ChatPrompt(history_file())) as prompt:
            Talk(session, conversation, prompt, is_verbose=verbose).run()
        return
    text = " ".join(question) if question else sys.stdin.read().strip()
    if not text:
        raise CommandFailed("there is no question", Exit.USAGE, "usage")
    answer_once(session, conversation, text, is_verbose=verbose)


def answer_once(
    session: Session, conversation: Conversation, question: str, *, is_verbose: bool
) -> None:
    """Print one answer."""
    screen = Screen(is_silent=session.as_json)
    try:
        turn = conversation.ask(question, screen.show)
    finally:
        screen.end()
    if session.as_json:
        session.line(turn_document(turn))
        return
    _remark(session, turn, is_verbose=is_verbose)


class Screen:
    """Writes an answer as it comes: reasoning dimmed, and only on a terminal.

    Args:
        is_silent: Write nothing.
    """

    def __init__(self, *, is_silent: bool = False) -> None:
        self._is_silent = is_silent
        self._is_terminal = sys.stdout.isatty()
        self._kind: Kind | None = None
        self._ends_line = True

    def show(self, kind: Kind, text: str) -> None:
        """Write a piece."""
        if self._is_silent or (kind == "reasoning" and not self._is_terminal):
            return
        if self._kind != kind:
            self._change(kind)
        sys.stdout.write(printable(text) if self._is_terminal else text)
        sys.stdout.flush()
        self._ends_line = text.endswith("\n")

    def end(self) -> None:
        """Leave the terminal as it was, on a line of its own."""
        if self._kind == "reasoning":
            sys.stdout.write(PLAIN)
        if not self._ends_line:
            sys.stdout.write("\n")
        sys.stdout.flush()
        self._kind, self._ends_line = None, True

    def _change(self, kind: Kind) -> None:
        if kind == "reasoning":
            sys.stdout.write(DIM)
        elif self._kind == "reasoning":
            sys.stdout.write(PLAIN + "\n" * (1 if self._ends_line else 2))
        self._kind = kind


class Talk:
    """A conversation at the terminal.

    Args:
        session: Shows remarks.
        conversation: With the model.
        prompt: Reads what is typed.
        is_verbose: Show tokens and speed after each answer.
    """

    def __init__(
        self,
        session: Session,
        conversation: Conversation,
        prompt: ChatPrompt,
        *,
        is_verbose: bool = False,
    ) -> None:
        self._session = session
        self._conversation = conversation
        self._prompt = prompt
        self._is_verbose = is_verbose
        self._is_over = False

    def run(self) -> None:
        """Ask and answer until the person leaves."""
        self._session.say("/help shows commands; Ctrl-C stops an answer, Ctrl-D leaves.")
        is_warned = False
        while not self._is_over:
            try:
                text = self._prompt.read()
            except EOFError:
                self._session.say("")
                return
            except KeyboardInterrupt:
                if is_warned:
                    raise
                is_warned = True
                self._session.say("\nCtrl-C once more leaves; so does /exit.")
                continue
            is_warned = False
            if text.startswith("/"):
                self._obey(text)
            elif text.strip():
                self._answer(text)

    def _answer(self, text: str) -> None:
        screen = Screen()
        try:
            turn = self._conversation.ask(text, screen.show)
        except KeyboardInterrupt:
            screen.end()
            self._session.say("(stopped)")
        except CommandFailed as failure:
            screen.end()
            self._session.say(f"lmx: {printable(failure.message)}")
        else:
            screen.end()
            _remark(self._session, turn, is_verbose=self._is_verbose)

    def _obey(self, text: str) -> None:
        word, _, rest = text[1:].partition(" ")
        commands = {
            "help": self._help,
            "clear": self._clear,
            "system": self._system,
            "save": self._save,
            "model": self._model,
            "exit": self._exit,
            "quit": self._exit,
            "bye": self._exit,
        }
        obey = commands.get(word)
        if obey is None:
            self._session.say(f"there is no /{word}; /help shows what there is")
        else:
            obey(rest.strip())

    def _help(self, _rest: str) -> None:
        """Show what there is."""
        self._session.say(
            "/clear           forget what was said\n"
            "/system [TEXT]   tell the model something first; without TEXT, nothing\n"
            "/save FILE       write the conversation; .json as a request, else as Markdown\n"
            "/model [NAME]    talk with another model\n"
            "/exit            leave\n"
            '"""              begins and ends a text of several lines'
        )

    def _clear(self, _rest: str) -> None:
        self._conversation.clear()
        self._session.say("forgotten")

    def _system(self, rest: str) -> None:
        self._conversation.options.system = rest
        self._session.say("the model is told that first" if rest else "the model is told nothing")

    def _model(self, rest: str) -> None:
        options = self._conversation.options
        options.model = rest or options.model
        self._session.say(f"talking with {printable(options.model)}")

    def _save(self, rest: str) -> None:
        from lmx.cli.chat_saving import save_conversation

        try:
            self._session.say(f"written to {save_conversation(self._conversation, rest)}")
        except CommandFailed as failure:
            self._session.say(f"lmx: {failure.message}")

    def _exit(self, _rest: str) -> None:
        self._is_over = True


def _remark(session: Session, turn: Turn, *, is_verbose: bool) -> None:
    if turn.finish_reason == "length":
        session.say("(cut off: the answer reached its limit of tokens)")
    if is_verbose:
        speed, first_s = turn.tokens_per_second, turn.first_text_s
        parts = [f"{turn.prompt_tokens} + {turn.completion_tokens} tokens"]
        parts += [] if speed is None else [f"{speed:.1f} tok/s"]
        parts += [] if first_s is None else [f"first after {first_s:.2f} s"]
        session.say(f"({turn.model}: {', '.join(parts)})")
