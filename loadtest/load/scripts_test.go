package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/sobek"
)

const scriptDir = "../k6"

// k6Modules stand for what k6 itself offers, with the names the scripts may import.
var k6Modules = map[string]string{
	"k6":           `export function check() {}`,
	"k6/http":      `export default {}`,
	"k6/execution": `export default {}`,
	"k6/encoding":  `export default {}`,
	"k6/metrics":   `export class Counter {}`,
}

// evaluate runs a script's top level on k6's own JavaScript engine, where neither modules nor network are k6's, and returns what
// it exports. It finds what is wrong with syntax, imports and options without k6, whose building takes minutes.
func evaluate(file string, env map[string]string) (exports *sobek.Object, err error) {
	rt := sobek.New()
	if err := rt.Set("__ENV", env); err != nil {
		return nil, err
	}
	if err := rt.Set("open", func(name string) (string, error) {
		b, err := os.ReadFile(name)
		return string(b), err
	}); err != nil {
		return nil, err
	}
	modules := map[string]sobek.ModuleRecord{}
	var resolve sobek.HostResolveImportedModuleFunc
	resolve = func(_ any, name string) (sobek.ModuleRecord, error) {
		if m := modules[name]; m != nil {
			return m, nil
		}
		source, builtin := k6Modules[name]
		if !builtin {
			if !strings.HasPrefix(name, "./") {
				return nil, fmt.Errorf("%q is no module that the scripts may use", name)
			}
			b, err := os.ReadFile(filepath.Join(scriptDir, name))
			if err != nil {
				return nil, err
			}
			source = string(b)
		}
		m, err := sobek.ParseModule(name, source, resolve)
		if err == nil {
			modules[name] = m
		}
		return m, err
	}
	m, err := resolve(nil, "./"+file)
	if err != nil {
		return nil, err
	}
	if err := m.Link(); err != nil {
		return nil, err
	}
	if p := m.Evaluate(rt); p.State() != sobek.PromiseStateFulfilled {
		return nil, fmt.Errorf("%v", p.Result())
	}
	return rt.NamespaceObjectFor(m), nil
}

func TestEveryScriptIsSound(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(scriptDir, "*.js"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".js")
		if name == "keyway" {
			continue // what they share
		}
		found = append(found, name)
		t.Run(name, func(t *testing.T) { checkScript(t, name) })
	}
	var ours []string
	for _, s := range scripts {
		ours = append(ours, s.name)
	}
	slices.Sort(ours)
	if !slices.Equal(found, ours) {
		t.Errorf("there are scripts %v, and this program runs %v", found, ours)
	}
}

func checkScript(t *testing.T, name string) {
	dev := filepath.Join(t.TempDir(), "dev.json")
	if err := os.WriteFile(dev, []byte(`{"url":"http://127.0.0.1:1","client_token":"kw_x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := evaluate(name+".js", map[string]string{"DEV_JSON": dev, "RATE": "12.3", "DURATION": "7s", "P99_MS": "99"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"default", "handleSummary"} {
		if _, ok := sobek.AssertFunction(e.Get(f)); !ok {
			t.Errorf("it exports no function %s", f)
		}
	}
	options := e.Get("options").ToObject(nil)
	load := options.Get("scenarios").ToObject(nil).Get("load").ToObject(nil)
	for field, want := range map[string]any{"executor": "constant-arrival-rate", "rate": int64(123), "timeUnit": "10s", "duration": "7s", "preAllocatedVUs": int64(50), "maxVUs": int64(200)} {
		if got := load.Get(field).Export(); got != want {
			t.Errorf("%s is %v, want %v", field, got, want)
		}
	}
	thresholds := options.Get("thresholds").ToObject(nil)
	for metric, want := range map[string]string{
		"http_req_failed": "rate==0", "checks": "rate==1", "answers_wrong": "count==0", "answers_verified": "count>0",
		"dropped_iterations": "count==0", "http_req_duration": "p(99)<99",
	} {
		if got := fmt.Sprint(thresholds.Get(metric)); got != want {
			t.Errorf("the threshold of %s is %s, want %s", metric, got, want)
		}
	}
	if _, err := evaluate(name+".js", map[string]string{"RATE": "-1"}); err == nil || !strings.Contains(err.Error(), "RATE") {
		t.Errorf("a negative rate: %v", err)
	}
}

func TestWhatIsWrongWithAScriptIsFound(t *testing.T) {
	for what, source := range map[string]string{
		"syntax":              `export default function () {`,
		"a module of nowhere": `import x from 'k6/nothing';`,
		"a name of nowhere":   `import { nothing } from './keyway.js';`,
		"its top level":       `throw new Error('no')`,
	} {
		k6Modules["./broken.js"] = source
		if _, err := evaluate("broken.js", nil); err == nil {
			t.Errorf("%s: not found", what)
		}
	}
	delete(k6Modules, "./broken.js")
}
