// Runs templates with Go's own text/template. Cases come as a JSON array on standard input, results go as one to
// standard output: {"parse": bool, "run": bool, "output": base64, "message": string}.
//
// In the data {"$json": value} stands for a map or list that prints as its JSON, and integers are ints.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type jsonMap map[string]any
type jsonList []any

func marshal(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

func (m jsonMap) String() string  { return marshal(map[string]any(m)) }
func (l jsonList) String() string { return marshal([]any(l)) }

type testCase struct {
	Template string `json:"template"`
	Data     any    `json:"data"`
}

type result struct {
	Parse   bool   `json:"parse"`
	Run     bool   `json:"run"`
	Output  []byte `json:"output"`
	Message string `json:"message"`
}

func convert(v any) any {
	switch v := v.(type) {
	case json.Number:
		if !strings.ContainsAny(v.String(), ".eE") {
			if n, err := v.Int64(); err == nil {
				return int(n)
			}
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = convert(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = convert(v[k])
		}
		switch inner := v["$json"].(type) {
		case map[string]any:
			return jsonMap(inner)
		case []any:
			return jsonList(inner)
		}
	}
	return v
}

func run(c testCase) (r result) {
	functions := template.FuncMap{"json": marshal}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(c.Template)
	if err != nil {
		r.Message = err.Error()
		return r
	}
	r.Parse = true
	var out bytes.Buffer
	if err := parsed.Execute(&out, convert(c.Data)); err != nil {
		r.Message = err.Error()
		return r
	}
	r.Run, r.Output = true, out.Bytes()
	return r
}

func main() {
	decoder := json.NewDecoder(os.Stdin)
	decoder.UseNumber()
	var cases []testCase
	if err := decoder.Decode(&cases); err != nil {
		panic(err)
	}
	results := make([]result, len(cases))
	for i, c := range cases {
		results[i] = run(c)
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		panic(err)
	}
}
