// Renders a chart where there is no helm: with Go's text/template, sprig and sigs.k8s.io/yaml, from which helm is made.
//
//	render CHART RELEASE VALUES.json...
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func merge(into, from map[string]interface{}) {
	for key, value := range from {
		old, nested := into[key].(map[string]interface{})
		given, also := value.(map[string]interface{})
		if nested && also {
			merge(old, given)
		} else {
			into[key] = value
		}
	}
}

func main() {
	chart, release := os.Args[1], os.Args[2]
	values := map[string]interface{}{}
	for _, path := range append([]string{filepath.Join(chart, "values.yaml")}, os.Args[3:]...) {
		content, err := os.ReadFile(path)
		check(err)
		given := map[string]interface{}{}
		check(yaml.Unmarshal(content, &given))
		merge(values, given)
	}
	all := template.New("chart").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	functions["toYaml"] = func(value interface{}) string {
		content, err := yaml.Marshal(value)
		check(err)
		return strings.TrimSuffix(string(content), "\n")
	}
	functions["include"] = func(name string, data interface{}) (string, error) {
		var made bytes.Buffer
		err := all.ExecuteTemplate(&made, name, data)
		return made.String(), err
	}
	all.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	check(err)
	for _, path := range paths {
		content, err := os.ReadFile(path)
		check(err)
		_, err = all.New(filepath.Base(path)).Parse(string(content))
		check(err)
	}
	data := map[string]interface{}{"Values": values, "Release": map[string]interface{}{"Name": release}}
	for _, path := range paths {
		if strings.HasSuffix(path, ".yaml") {
			fmt.Println("---")
			check(all.ExecuteTemplate(os.Stdout, filepath.Base(path), data))
		}
	}
}
