"""etcd, the API server, the scheduler and the controller manager, natively on this machine, on 127.0.0.1 only.

The node sees the API server at a port of its own, on its loopback interface for its own programs and at its address for
pods (node.py makes both); the address is what the service `kubernetes` names.
"""

import json
import ssl
import urllib.request

from . import pki, processes, programs
from .kubectl import Kubectl
from .wait import until

SERVICES = "10.96.0.0/16"
# What pods know the API server by: the first address of SERVICES.
SERVICE_ADDRESS = "10.96.0.1"
# The box's address on the network that QEMU makes.
NODE_ADDRESS = "10.0.2.15"
# The API server looks this name up to reach the kubelet, whose port is forwarded from this machine.
NODE_NAME = "localhost"
NODE_SILENCE = "180s"  # until the node counts as lost: an emulated machine can be slow to say that it is there
PATIENCE = 120
ANSWER = 60  # seconds that the kubelet has for one


class ControlPlane:
    """One cluster's. `kubectl` is its administrator's."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = processes.Processes(folder / "logs")
        etcd, etcd_peer, self.port, self.kubelet_port = processes.free_ports(4)
        self.url = f"https://127.0.0.1:{self.port}"
        self.authority = pki.Authority(folder / "pki")
        admin = self.authority.kubeconfig("admin", "admin", self.url, "system:masters")
        self.kubectl = Kubectl(programs.kubernetes() / "kubectl", admin)
        self._start_etcd(etcd, etcd_peer)
        self._start_api_server(etcd)
        until("an answer of the API server", PATIENCE, self._answers)
        self._start_managers()

    def ask_kubelet(self, path):
        """What the node's kubelet answers the API server; that one's own proxy refuses a node at a loopback address."""
        context = ssl.create_default_context()
        # The kubelet signs its certificate itself, and the API server does not check it either.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(*self.kubelet_client)
        url = f"https://127.0.0.1:{self.kubelet_port}{path}"
        with urllib.request.urlopen(url, context=context, timeout=ANSWER) as answer:
            return json.load(answer)

    def end(self):
        """Ends its programs."""
        self.processes.end()

    def _answers(self):
        self.processes.check()
        return self.kubectl.try_("get", "--raw", "/readyz").returncode == 0

    def _start_etcd(self, port, peer_port):
        peer = f"http://127.0.0.1:{peer_port}"
        client = f"http://127.0.0.1:{port}"
        self.processes.start(
            programs.etcd(), "--unsafe-no-fsync", data_dir=self.folder / "etcd",
            listen_client_urls=client, advertise_client_urls=client,
            listen_peer_urls=peer, initial_advertise_peer_urls=peer, initial_cluster=f"default={peer}")

    def _start_api_server(self, etcd_port):
        reached_as = [f"IP:{address}" for address in ("127.0.0.1", NODE_ADDRESS, SERVICE_ADDRESS)]
        certificate, key = self.authority.issue("apiserver", "kube-apiserver", reached_as=reached_as)
        # The administrators' group may do everything, on the kubelet too.
        self.kubelet_client = self.authority.issue("kubelet-client", "kubelet-client", "system:masters")
        self.signing_key = self.authority.service_account_key()
        self.processes.start(
            programs.kubernetes() / "kube-apiserver", etcd_servers=f"http://127.0.0.1:{etcd_port}",
            bind_address="127.0.0.1", secure_port=self.port, advertise_address=NODE_ADDRESS,
            tls_cert_file=certificate, tls_private_key_file=key, client_ca_file=self.authority.certificate,
            authorization_mode="Node,RBAC", enable_admission_plugins="NodeRestriction", allow_privileged="true",
            service_cluster_ip_range=SERVICES, service_account_issuer="https://kubernetes.default.svc",
            service_account_key_file=self.signing_key, service_account_signing_key_file=self.signing_key,
            kubelet_client_certificate=self.kubelet_client[0], kubelet_client_key=self.kubelet_client[1],
            kubelet_preferred_address_types="Hostname")

    def _start_managers(self):
        def as_itself(name):
            return self.authority.kubeconfig(name, f"system:{name}", self.url)
        common = {"leader_elect": "false", "secure_port": "0"}
        folder = programs.kubernetes()
        self.processes.start(folder / "kube-scheduler", **common, kubeconfig=as_itself("kube-scheduler"))
        self.processes.start(
            folder / "kube-controller-manager", **common, kubeconfig=as_itself("kube-controller-manager"),
            root_ca_file=self.authority.certificate, service_account_private_key_file=self.signing_key,
            use_service_account_credentials="true", node_monitor_grace_period=NODE_SILENCE)
