"""The project's commands: ``python tools/dev.py demo``, ``test``, ``setup`` and ``lint``.

They need Python 3.11 or newer and nothing else: the environment is made on the first call. This file is
written so that an older Python, too, reads it and says what is wrong; the work is in dev_steps.py.
"""

import sys

if sys.version_info < (3, 11):
    sys.stderr.write(
        "error: fxprune needs Python 3.11 or newer; this is Python %d.%d (%s)\n"
        "  what to do: install a newer Python and call it by name, as 'python3.12 tools/dev.py test'\n"
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )
    sys.exit(3)

from dev_steps import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
