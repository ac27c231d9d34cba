package main

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// manifest is the DaemonSet, strictly decoded by the API's own types.
func manifest(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	var set appsv1.DaemonSet
	if err := yaml.UnmarshalStrict([]byte(read(t, "daemonset.yaml")), &set); err != nil {
		t.Fatal(err)
	}
	return &set
}

// The manifest gives the agent the capabilities that the unit does, and nothing to write to but
// what it names.
func TestDaemonSet(t *testing.T) {
	set := manifest(t)
	if set.APIVersion != "apps/v1" || set.Kind != "DaemonSet" {
		t.Errorf("is a %s %s", set.APIVersion, set.Kind)
	}
	labels := set.Spec.Template.Labels
	for key, value := range set.Spec.Selector.MatchLabels {
		if labels[key] != value {
			t.Errorf("the selector's %s is not the template's", key)
		}
	}
	c := set.Spec.Template.Spec.Containers[0]
	security := c.SecurityContext
	if *security.Privileged || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem {
		t.Errorf("%+v", security)
	}
	if !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("drops %v", security.Capabilities.Drop)
	}
	var granted []string
	for _, name := range security.Capabilities.Add {
		granted = append(granted, "CAP_"+string(name))
	}
	_, bounds, _ := strings.Cut(read(t, "pinwatch-agent.service"), "\nCapabilityBoundingSet=")
	bounds, _, _ = strings.Cut(bounds, "\n")
	if got := strings.Join(granted, " "); got != bounds {
		t.Errorf("the manifest grants %s, and the unit %s", got, bounds)
	}
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != "/healthz" || probe.HTTPGet.Port.StrVal != c.Ports[0].Name {
			t.Errorf("probe: %+v", probe)
		}
	}
	if c.Resources.Limits.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
		t.Errorf("limits: %v", c.Resources.Limits)
	}
	for _, mount := range c.VolumeMounts {
		if writable := mount.Name == "recordings" || mount.Name == "run"; writable == mount.ReadOnly {
			t.Errorf("%s: read-only is %v", mount.Name, mount.ReadOnly)
		}
	}
}
