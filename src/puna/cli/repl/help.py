"""The texts of help in a conversation."""

MAIN = '''Available Commands:
  /set            Change how this session goes
  /show           Say something of the model
  /list [prefix]  List models
  /load <model>   Go on with another model
  /save <model>   Make a model of this session
  /clear          Forget what was said
  /bye            Leave
  /?, /help       Help for a command
  /? shortcuts    Help for keys

Begin a message of several lines with """ and end it with """.'''

SET = """Available Commands:
  /set parameter <name> <value>  Set an option of the model
  /set system <text>             Set the system message
  /set format json               Keep answers to JSON
  /set noformat                  Let answers be free
  /set think [level]             Let the model think first
  /set nothink                   Do not let it
  /set verbose                   Show timings
  /set quiet                     Do not show them
  /set wordwrap                  Wrap words at the line's end
  /set nowordwrap                Do not wrap them
  /set history                   Keep what is typed for later sessions
  /set nohistory                 Do not keep it"""

SHOW = """Available Commands:
  /show info         What the model is and can do
  /show license      Its licence
  /show modelfile    A Modelfile that makes it again
  /show parameters   Its options, and those of this session
  /show system       The system message
  /show template     The template of its prompts"""

SHORTCUTS = """Available keyboard shortcuts:
  Ctrl + a            To the line's beginning (Home)
  Ctrl + e            To the line's end (End)
  Alt + b             One word to the left
  Alt + f             One word to the right
  Ctrl + k            Delete up to the line's end
  Ctrl + u            Delete up to the line's beginning
  Ctrl + w            Delete the word before the cursor
  Ctrl + p, Ctrl + n  Earlier and later lines (Up, Down)
  Ctrl + l            Clear the screen
  Ctrl + g            Write in an editor
  Ctrl + c            End the answer, or give up the line
  Ctrl + d            Leave"""

TOPICS = {"": MAIN, "set": SET, "/set": SET, "show": SHOW, "/show": SHOW, "shortcut": SHORTCUTS}
TOPICS |= {"shortcuts": SHORTCUTS}
