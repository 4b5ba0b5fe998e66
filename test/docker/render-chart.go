// SPDX-License-Identifier: MIT

// Renders docker/helm/twelvex where helm cannot be installed: Go's own template engine and sprig, which helm is made of,
// with helm's additions that the chart uses (include, toYaml, .Values, .Release, .Chart).
// usage: GO111MODULE=off GOPATH=/usr/share/gocode go run render-chart.go CHART RELEASE [key=value ...]
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: render-chart CHART RELEASE [key=value ...]"))
	}
	chart, release := os.Args[1], os.Args[2]
	values := readYaml(filepath.Join(chart, "values.yaml"))
	for _, setting := range os.Args[3:] {
		set(values, setting)
	}
	meta := readYaml(filepath.Join(chart, "Chart.yaml"))
	data := map[string]any{
		"Values":  values,
		"Release": map[string]any{"Name": release, "Namespace": "default"},
		"Chart":   map[string]any{"Name": meta["name"], "AppVersion": meta["appVersion"]},
	}
	root := template.New("chart").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data any) (string, error) {
		var out bytes.Buffer
		err := root.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value any) (string, error) {
		out, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(out), "\n"), err
	}
	template.Must(root.Funcs(functions).ParseGlob(filepath.Join(chart, "templates", "*")))
	for _, file := range root.Templates() {
		if !strings.HasSuffix(file.Name(), ".yaml") {
			continue
		}
		var out bytes.Buffer
		check(file.Execute(&out, data))
		if strings.TrimSpace(out.String()) != "" {
			fmt.Printf("---\n# Source: %s\n%s", file.Name(), out.String())
		}
	}
}

// set applies key.path=value, as helm --set does for scalars.
func set(values map[string]any, setting string) {
	path, text, _ := strings.Cut(setting, "=")
	keys := strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		values = values[key].(map[string]any)
	}
	var value any
	check(yaml.Unmarshal([]byte(text), &value))
	values[keys[len(keys)-1]] = value
}

func readYaml(path string) map[string]any {
	text, err := os.ReadFile(path)
	check(err)
	out := map[string]any{}
	check(yaml.Unmarshal(text, &out))
	return out
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
