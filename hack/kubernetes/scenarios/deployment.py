"""A Deployment of nginx, scaled, behind a Service."""

from ..images import NGINX
from ..place import STAY, container, expect
from ..wait import until

LABELS = {"app": "web"}


def deployment_with_service(place):
    """One replica, then three; the Service's address (kube-proxy) reaches each of them; then none."""
    # Each says who it is.
    nginx = {
        "name": "nginx", "image": NGINX, "ports": [{"containerPort": 80}],
        "command": ["sh", "-c", "mkdir -p /var/www/html; hostname >/var/www/html/index.html; exec nginx -g 'daemon off;'"],
        "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 2, "timeoutSeconds": 10},
    }
    kubectl = place.kubectl
    kubectl.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
         "spec": {"replicas": 1, "selector": {"matchLabels": LABELS}, "template": place.template(nginx, labels=LABELS)}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
         "spec": {"selector": LABELS, "ports": [{"port": 80}]}},
    )
    kubectl.run("rollout", "status", "deployment/web", "--timeout=420s")
    kubectl.run("scale", "deployment/web", "--replicas=3")
    kubectl.run("rollout", "status", "deployment/web", "--timeout=420s")
    place.run("client", container("client", STAY))
    address = kubectl.run("get", "service/web", "-o", "jsonpath={.spec.clusterIP}")
    pods = {pod["metadata"]["name"] for pod in kubectl.get("pods", "-l", "app=web")["items"]}
    expect("replicas", len(pods), 3)
    seen = set()

    def all_answered():
        seen.add(place.exec("client", f"wget -q -O - -T 10 http://{address}/ || true"))
        return pods <= seen

    until("answer from each of three pods", 120, all_answered)
    kubectl.run("scale", "deployment/web", "--replicas=0")
    kubectl.wait("delete", "pod", "-l", "app=web")
