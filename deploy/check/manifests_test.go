package check

// What is deployed: the Kubernetes manifests and the compose file are what their
// schemas say, ask for no privilege, and agree with the configurations in them.

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	compose "github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

const (
	manifests   = "../kubernetes/gateway.yaml"
	composeFile = "../compose/compose.yaml"
)

// decode reads the manifest of a kind, strictly: what Kubernetes does not know is an
// error.
func decode(t *testing.T, kind string, into any) {
	t.Helper()
	found := 0
	for _, text := range strings.Split(string(read(t, manifests)), "\n---\n") {
		var head struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(text), &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind != kind {
			continue
		}
		found++
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	if found != 1 {
		t.Fatalf("there are %d manifests of kind %s", found, kind)
	}
}

func TestManifests(t *testing.T) {
	var (
		config     corev1.ConfigMap
		deployment appsv1.Deployment
		service    corev1.Service
		budget     policyv1.PodDisruptionBudget
	)
	decode(t, "ConfigMap", &config)
	decode(t, "Deployment", &deployment)
	decode(t, "Service", &service)
	decode(t, "PodDisruptionBudget", &budget)

	labels := deployment.Spec.Template.Labels
	for where, selector := range map[string]map[string]string{
		"the Deployment": deployment.Spec.Selector.MatchLabels,
		"the Service":    service.Spec.Selector,
		"the budget":     budget.Spec.Selector.MatchLabels,
	} {
		for name, value := range selector {
			if labels[name] != value {
				t.Errorf("%s selects no pod of the Deployment's", where)
			}
		}
	}
	pod := deployment.Spec.Template.Spec
	if pod.SecurityContext.RunAsNonRoot == nil || !*pod.SecurityContext.RunAsNonRoot || *pod.AutomountServiceAccountToken {
		t.Error("the pod may be root, or has an account of the cluster's")
	}
	c := pod.Containers[0]
	if s := c.SecurityContext; *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("the container has privileges: %+v", s)
	}
	caddyfile := config.Data["gateway.caddyfile"]
	for path, probe := range map[string]*corev1.Probe{"/readyz": c.ReadinessProbe, "/livez": c.LivenessProbe} {
		if probe.HTTPGet.Path != path || !strings.Contains(caddyfile, "handle "+path+" {") {
			t.Errorf("nothing answers %s", path)
		}
	}
	mounts := map[string]string{}
	for _, m := range c.VolumeMounts {
		mounts[m.Name] = m.MountPath
	}
	if !strings.Contains(caddyfile, "{file."+mounts["secret"]+"/app_secret}") {
		t.Errorf("the secret is mounted at %s, and read elsewhere", mounts["secret"])
	}
	if want := mounts["config"] + "/gateway.caddyfile"; !slices.Contains(c.Args, want) {
		t.Errorf("the container does not run %s", want)
	}
	validate(t, caddyBinary, caddyfile, mounts["secret"])
}

// readCompose reads the compose file by compose's own schema.
func readCompose(t *testing.T) *compose.Project {
	t.Helper()
	project, err := loader.LoadWithContext(context.Background(), compose.ConfigDetails{
		WorkingDir:  filepath.Dir(composeFile),
		ConfigFiles: []compose.ConfigFile{{Filename: composeFile, Content: read(t, composeFile)}},
		Environment: map[string]string{"WECHAT_APP_ID": appBusy, "GATEWAY_KEY": gatewayKey},
	}, func(o *loader.Options) { o.SetProjectName("wechat-media", true) })
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestComposeAsksForNoPrivilege(t *testing.T) {
	project := readCompose(t)
	gateways := 0
	for name, service := range project.Services {
		if service.User == "" || strings.HasPrefix(service.User, "0") || !service.ReadOnly ||
			!slices.Equal(service.CapDrop, []string{"ALL"}) || !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s has privileges", name)
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s listens on %q", name, port.HostIP)
			}
		}
		if strings.HasPrefix(name, "gateway") {
			gateways++
			if service.Build.Args["MODULES"] == nil || !strings.Contains(strings.Join(service.HealthCheck.Test, " "), "/readyz") {
				t.Errorf("%s has no storage module, or no check of its readiness", name)
			}
			if _, err := os.Stat(filepath.Join(service.Build.Context, service.Build.Dockerfile)); err != nil {
				t.Error(err)
			}
		}
	}
	if gateways != 2 || !project.Networks["store"].Internal {
		t.Errorf("there are %d gateways, and the network of the store is open: %v", gateways, !project.Networks["store"].Internal)
	}
}

// validate has a Caddy validate a config whose secrets are in a directory.
func validate(t *testing.T, caddy, caddyfile, secrets string) {
	t.Helper()
	dir := secretsIn(t)
	cmd := exec.Command(caddy, "validate", "--config", "-", "--adapter", "caddyfile")
	cmd.Stdin = strings.NewReader(replaced(t, caddyfile, secrets, dir))
	cmd.Env = append(os.Environ(), "WECHAT_APP_ID="+appBusy, "GATEWAY_KEY="+gatewayKey, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func secretsIn(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, value := range map[string]string{"app_secret": secret, "store_key": strings.Repeat("k", 32)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSystemdConfig(t *testing.T) {
	caddyfile := string(read(t, "../systemd/gateway.caddyfile"))
	unit := read(t, "../systemd/caddy-wechat-media.service")
	for _, want := range []string{"LoadCredential=app_secret:", "--config /etc/caddy-wechat-media/gateway.caddyfile"} {
		if !bytes.Contains(unit, []byte(want)) {
			t.Errorf("the unit has no %s", want)
		}
	}
	validate(t, caddyBinary, caddyfile, "{$CREDENTIALS_DIRECTORY:/etc/caddy-wechat-media}")
}
