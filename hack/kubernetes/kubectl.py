"""kubectl as a user has it, with one kubeconfig."""

import json
import subprocess

from boxlib.errors import BoxError


class Kubectl:
    """`run` and `try_` take the words after `kubectl`, a namespace for them comes from `within`."""

    def __init__(self, program, kubeconfig, namespace=None):
        self.program, self.kubeconfig, self.namespace = program, kubeconfig, namespace

    def within(self, namespace):
        """The same, in that namespace."""
        return Kubectl(self.program, self.kubeconfig, namespace)

    def words(self, *arguments):
        """The whole command."""
        namespace = [f"--namespace={self.namespace}"] if self.namespace else []
        return [str(self.program), f"--kubeconfig={self.kubeconfig}", *namespace, *map(str, arguments)]

    def try_(self, *arguments, given="", timeout=450):
        """What became of a command, whatever that is; `given` is its standard input."""
        try:
            return subprocess.run(self.words(*arguments), input=given, capture_output=True, text=True, check=False,
                                  timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise BoxError(f"`kubectl {' '.join(map(str, arguments))}` did not end in {timeout} s") from error

    def run(self, *arguments, given="", timeout=450):
        """What a command prints that must succeed."""
        done = self.try_(*arguments, given=given, timeout=timeout)
        if done.returncode != 0:
            raise BoxError(f"`kubectl {' '.join(map(str, arguments))}` ended with status {done.returncode}:"
                           f" {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def apply(self, *objects):
        """Makes objects, or changes them."""
        whole = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.run("apply", "-f", "-", given=json.dumps(whole))

    def get(self, *what):
        """An object, understood."""
        return json.loads(self.run("get", *what, "-o", "json"))

    def wait(self, condition, *what, seconds=420):
        """Waits until an object is as `--for` says."""
        self.run("wait", f"--for={condition}", f"--timeout={seconds}s", *what, timeout=seconds + 30)
