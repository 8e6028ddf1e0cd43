"""The documented module of the handler: `from runner.handler import save_multi_from_single`."""

from runner.doors.handler import NNHandler as NNHandler
from runner.doors.handler_files import save_multi_files as save_multi_files
from runner.doors.handler_files import save_multi_from_single as save_multi_from_single
from runner.doors.handler_files import save_single_file as save_single_file
from runner.doors.handler_files import save_single_from_multi as save_single_from_multi
