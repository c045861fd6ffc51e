package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// exchange sends raw bytes on a connection of its own and returns what came back until the server closed it.
func (g *gate) exchange(raw string) string {
	g.t.Helper()
	c := g.dial()
	defer c.Close()
	if _, err := io.WriteString(c, raw); err != nil {
		g.t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		g.t.Errorf("%.60q: %v", raw, err)
	}
	return string(b)
}

// statuses reads a series of responses to POST requests, whole, and returns their statuses.
func statuses(t testing.TB, raw string) (out []int) {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(raw))
	for {
		if _, err := r.Peek(1); err != nil {
			return out
		}
		res, err := http.ReadResponse(r, &http.Request{Method: "POST"})
		if err != nil {
			t.Errorf("not a response: %v in %.300q", err, raw)
			return out
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Errorf("a response that is not whole: %v in %.300q", err, raw)
		}
		out = append(out, res.StatusCode)
	}
}

const signLine = "POST /api/v1/keys/k-sign/sign HTTP/1.1\r\n"

// quick is a server whose time-outs are short.
func quick(c *Config) { c.ReadTimeout, c.IdleTimeout = 300*time.Millisecond, 300*time.Millisecond }

// Whatever could make a proxy and this server see different requests in the same bytes is refused, or ends the connection: the
// request hidden behind it is never answered.
func TestNoRequestIsSmuggled(t *testing.T) {
	g := newGate(t, quick)
	auth := "Host: x\r\nAuthorization: Bearer " + appToken + "\r\n"
	body := `{"message":"aGk="}`
	n := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	hidden := "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	for _, c := range []struct {
		what, raw string
		want      []int
	}{
		{"a plain request", signLine + auth + n + "\r\n" + body + hidden, []int{200, 200}},
		{"chunks", signLine + auth + "Transfer-Encoding: chunked\r\n\r\n" + chunked + hidden, []int{200, 200}},
		{"chunks with an extension", signLine + auth + "Transfer-Encoding: chunked\r\n\r\n" + strings.Replace(chunked, "\r\n", ";a=b\r\n", 1) + hidden, []int{200, 200}},
		{"two lengths", signLine + auth + n + n + "\r\n" + body + hidden, []int{400}},
		{"two lengths that differ", signLine + auth + "Content-Length: 0\r\n" + n + "\r\n" + body + hidden, []int{400}},
		{"a list of lengths", signLine + auth + fmt.Sprintf("Content-Length: %d, %d\r\n\r\n", len(body), len(body)) + body + hidden, []int{400}},
		{"a signed length", signLine + auth + fmt.Sprintf("Content-Length: +%d\r\n\r\n", len(body)) + body + hidden, []int{400}},
		{"a negative length", signLine + auth + "Content-Length: -1\r\n\r\n" + body + hidden, []int{400}},
		{"a hexadecimal length", signLine + auth + "Content-Length: 0x12\r\n\r\n" + body + hidden, []int{400}},
		{"a length beyond all numbers", signLine + auth + "Content-Length: 99999999999999999999999\r\n\r\n" + body + hidden, []int{400}},
		{"length and chunks", signLine + auth + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + hidden, []int{200}},
		{"chunks and length", signLine + auth + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + chunked + hidden, []int{200}},
		{"a coding that is none", signLine + auth + "Transfer-Encoding: xchunked\r\n\r\n" + chunked + hidden, []int{400}},
		{"codings in a row", signLine + auth + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunked + hidden, []int{400}},
		{"gzip and chunks", signLine + auth + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked + hidden, []int{400}},
		{"two codings", signLine + auth + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked + hidden, []int{400}},
		{"a space before the colon", signLine + auth + "Transfer-Encoding : chunked\r\n" + n + "\r\n" + body + hidden, []int{400}},
		{"a tab before the colon", signLine + auth + "Content-Length\t: 18\r\n\r\n" + body + hidden, []int{400}},
		{"a length in a folded line", signLine + auth + "X: y\r\n Content-Length: 5\r\n" + n + "\r\n" + body + hidden, []int{200, 200}},
		{"a folded length", signLine + auth + "Content-Length:\r\n " + fmt.Sprint(len(body)) + "\r\n\r\n" + body + hidden, []int{200, 200}},
		{"headers that begin folded", signLine + " X: y\r\n" + auth + n + "\r\n" + body + hidden, []int{400}},
		{"no colon", signLine + auth + "nonsense\r\n" + n + "\r\n" + body + hidden, []int{400}},
		{"an empty name", signLine + auth + ": x\r\n" + n + "\r\n" + body + hidden, []int{400}},
		{"a NUL in a value", signLine + auth + "X: a\x00b\r\n" + n + "\r\n" + body + hidden, []int{400}},
		{"a bare CR in a value", signLine + auth + "X: a\rContent-Length: 5\r\n" + n + "\r\n" + body + hidden, []int{400}},
		{"two hosts", signLine + auth + "Host: y\r\n" + n + "\r\n" + body + hidden, []int{400}},
		{"a chunk's size with a sign", signLine + auth + "Transfer-Encoding: chunked\r\n\r\n+" + chunked + hidden, []int{400}},
		{"a chunk's size with 0x", signLine + auth + "Transfer-Encoding: chunked\r\n\r\n0x" + chunked + hidden, []int{400}},
		{"a chunk's size beyond all numbers", signLine + auth + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + body + hidden, []int{400}},
		{"a chunk longer than it says", signLine + auth + "Transfer-Encoding: chunked\r\n\r\n5\r\n" + body + "\r\n0\r\n\r\n" + hidden, []int{400}},
		{"chunks with bare LFs", signLine + auth + "Transfer-Encoding: chunked\r\n\r\n" + strings.ReplaceAll(chunked, "\r\n", "\n") + hidden, []int{400}},
		{"a trailer that is a length", signLine + auth + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n" + chunked + hidden, []int{400}},
		{"HTTP/1.0 and chunks", strings.Replace(signLine, "1.1", "1.0", 1) + auth + "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + hidden, []int{400}},
		{"HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden, []int{400}},
		{"HTTP/0.9", "GET /healthz\r\n\r\n" + hidden, []int{400}},
		{"HTTP/3.0", "GET /healthz HTTP/3.0\r\n\r\n" + hidden, []int{200}},
		{"no method", " /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + hidden, []int{400}},
		{"a target with a space", "GET /healthz x HTTP/1.1\r\nHost: x\r\n\r\n" + hidden, []int{400}},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n" + hidden, []int{400}},
	} {
		if got := statuses(t, g.exchange(c.raw)); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: answered %v, want %v", c.what, got, c.want)
		}
	}
	g.ok("k-sign", "sign", `{"message":"aGk="}`)
}

// A path names a key as it was sent, or none: nothing is decoded, joined or resolved.
func TestPathsAreTakenAsTheyWereSent(t *testing.T) {
	g := newGate(t, quick)
	body := `{"message":"aGk="}`
	post := func(target string) int {
		t.Helper()
		got := statuses(t, g.exchange(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", target, appToken, len(body), body)))
		if len(got) != 1 {
			t.Fatalf("%q: %v", target, got)
		}
		return got[0]
	}
	for target, want := range map[string]int{
		"/api/v1/keys/k-sign/sign":                            200,
		"/api/v1/keys/k-sign/sign?x=/../y":                    200,
		"http://x/api/v1/keys/k-sign/sign":                    200,
		"http://x":                                            404,
		"//api/v1/keys/k-sign/sign":                           404,
		"/api/v1//keys/k-sign/sign":                           404,
		"/api/v1/keys//k-sign/sign":                           404,
		"/api/v1/keys/k-sign/sign/":                           404,
		"/api/v1/keys/k-sign//sign":                           404,
		"/api/v1/keys/k-wrap/../k-sign/sign":                  404,
		"/api/v1/keys/k-wrap/%2e%2e/k-sign/sign":              404,
		"/api/v1/keys/k-wrap%2f..%2fk-sign/sign":              404,
		"/api/v1/keys/k-wrap%2fsign":                          400, // the path of a key's metadata, which takes GET
		"/api/v1/keys/k%2dsign/sign":                          404,
		"/api/v1/keys/k-sign%00/sign":                         404,
		"/api/v1/keys/k-sign:1/sign":                          404,
		"/api/v1/keys/K-SIGN/sign":                            404,
		"/api/v1/keys/k-sign;x=y/sign":                        404,
		"/api/v1/keys//sign":                                  404,
		"/api/v1/keys/./sign":                                 404,
		"/api/v1/./keys/k-sign/sign":                          404,
		"/api/v1/keys/{key}/sign":                             404,
		"/API/v1/keys/k-sign/sign":                            404,
		"/api/v1/keys/k-sign\\sign":                           400,
		"/api/v1/keys/" + strings.Repeat("a", 4000) + "/sign": 404,
		"/api/v1/random":                                      400, // its body is another one
		"/api/v1/random/":                                     404,
		"*":                                                   400,
		"x":                                                   400,
		"/api/v1/keys/k-\x00sign/sign":                        400,
		"/api/v1/keys/k-\x7fsign/sign":                        400,
		"/" + strings.Repeat("..%2f", 200) + "etc/passwd":     404,
	} {
		if got := post(target); got != want {
			t.Errorf("POST %.60q: %d, want %d", target, got, want)
		}
	}
}

func TestMethods(t *testing.T) {
	g := newGate(t, nil)
	for _, c := range []struct {
		method, path string
		want         int
		allow        string
	}{
		{"GET", "/api/v1/keys/k-sign/sign", 400, "POST"}, {"PUT", "/api/v1/keys/k-sign/sign", 400, "POST"}, {"OPTIONS", "/api/v1/keys/k-sign", 400, "GET, HEAD"},
		{"POST", "/api/v1/keys/k-sign", 400, "GET, HEAD"}, {"DELETE", "/api/v1/keys/k-sign", 400, "GET, HEAD"}, {"TRACE", "/healthz", 400, "GET, HEAD"}, {"POST", "/healthz", 400, "GET, HEAD"},
		{"HEAD", "/api/v1/keys/k-sign", 200, ""}, {"HEAD", "/api/v1/keys/other", 404, ""}, {"HEAD", "/api/v1/random", 400, "POST"}, {"WHATEVER", "/healthz", 400, "GET, HEAD"}, {"get", "/healthz", 400, "GET, HEAD"},
		{"OPTIONS", "/nowhere", 404, ""},
	} {
		a := g.send(c.method, c.path, "")
		if a.status != c.want || a.header.Get("Allow") != c.allow || c.method == "HEAD" && a.raw != "" {
			t.Errorf("%s %s: %d, Allow %q, body %q; want %d, %q", c.method, c.path, a.status, a.header.Get("Allow"), a.raw, c.want, c.allow)
		}
	}
	if got := statuses(t, g.exchange("OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); fmt.Sprint(got) != "[404]" {
		t.Errorf("OPTIONS *: %v", got)
	}
}

func TestHTTP10AndContinueAndPipelines(t *testing.T) {
	g := newGate(t, quick)
	body := `{"message":"aGk="}`
	head := fmt.Sprintf("Host: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n", appToken, len(body))
	if got := g.exchange(strings.Replace(signLine, "1.1", "1.0", 1) + head + "\r\n" + body); fmt.Sprint(statuses(t, got)) != "[200]" || !strings.Contains(got, "Connection: close") {
		t.Errorf("HTTP/1.0: %q", got)
	}
	if got := g.exchange(strings.Repeat(strings.Replace(signLine, "1.1", "1.0", 1)+head+"Connection: keep-alive\r\n\r\n"+body, 2)); fmt.Sprint(statuses(t, got)) != "[200 200]" || !strings.Contains(got, "Connection: keep-alive") {
		t.Errorf("HTTP/1.0 kept alive: %q", got)
	}
	c := g.dial()
	fmt.Fprintf(c, "%s%sExpect: 100-continue\r\n\r\n", signLine, head)
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	_, _ = r.ReadString('\n')
	_, _ = io.WriteString(c, body)
	rest, err := io.ReadAll(r)
	if err != nil || fmt.Sprint(statuses(t, string(rest))) != "[200]" {
		t.Errorf("after 100: %q %v", rest, err)
	}
	// Many requests in one packet are answered in their order, each with its own answer.
	var all bytes.Buffer
	for i := range 100 {
		b := fmt.Sprintf(`{"message":%q}`, b64(fmt.Sprint(i)))
		fmt.Fprintf(&all, "POST /api/v1/keys/k-mac/mac HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", appToken, len(b), b)
	}
	r = bufio.NewReader(strings.NewReader(g.exchange(all.String())))
	for i := range 100 {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(i, err)
		}
		got, _ := io.ReadAll(res.Body)
		if want := g.ok("k-mac", "mac", `{"message":%q}`, b64(fmt.Sprint(i)))["mac"]; res.StatusCode != 200 || !strings.Contains(string(got), want.(string)) {
			t.Fatalf("answer %d: %d %s", i, res.StatusCode, got)
		}
	}
}

func TestRequestsThatBreakOffHurtNobody(t *testing.T) {
	g := newGate(t, quick)
	body := `{"message":"aGk="}`
	whole := signLine + fmt.Sprintf("Host: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", appToken, len(body)) + body
	chunked := signLine + "Host: x\r\nAuthorization: Bearer " + appToken + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"mes\r\n"
	for _, raw := range []string{whole, chunked} {
		for n := 1; n < len(raw); n += 7 {
			c := g.dial()
			if _, err := io.WriteString(c, raw[:n]); err != nil {
				t.Fatal(err)
			}
			if n%2 == 0 {
				_ = c.(*net.TCPConn).SetLinger(0) // a reset
			}
			_ = c.Close()
		}
	}
	g.ok("k-sign", "sign", `{"message":"aGk="}`)
	if n := g.crypto.ops.Load(); n != 1 {
		t.Errorf("%d operations, want the one that was whole", n)
	}
	waitFor(t, "broken connections to go", func() bool { g.s.connsMu.Lock(); defer g.s.connsMu.Unlock(); return len(g.s.conns) <= 1 })
}

func TestHeadersAndBodiesThatAreTooLargeAreToldSo(t *testing.T) {
	g := newGate(t, quick)
	auth := "Host: x\r\nAuthorization: Bearer " + appToken + "\r\n"
	f := func(what, raw string, want int, kind Kind) {
		t.Helper()
		got := g.exchange(raw)
		if s := statuses(t, got); len(s) != 1 || s[0] != want || !strings.Contains(got, `"kind":"`+string(kind)+`"`) {
			t.Errorf("%s: %.300q, want %d %s", what, got, want, kind)
		}
	}
	f("a header", signLine+auth+"X: "+strings.Repeat("x", readBuffer)+"\r\n\r\n", 413, TooLarge)
	f("many headers", signLine+auth+strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyy\r\n", 1000)+"\r\n", 413, TooLarge)
	f("a target", "GET /"+strings.Repeat("x", readBuffer)+" HTTP/1.1\r\nHost: x\r\n\r\n", 413, TooLarge)
	f("headers without an end", signLine+strings.Repeat("x", 3*readBuffer), 413, TooLarge)
	// The client sends all of a body that is not wanted before it looks for an answer, and gets it.
	big := strings.Repeat("x", 8<<20)
	f("a body", signLine+auth+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(big))+big, 413, TooLarge)
	f("a chunk", signLine+auth+"Transfer-Encoding: chunked\r\n\r\n"+fmt.Sprintf("%x\r\n", len(big))+big+"\r\n0\r\n\r\n", 413, TooLarge)
	f("chunks", signLine+auth+"Transfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1000\r\n"+big[:4096]+"\r\n", 100)+"0\r\n\r\n", 413, TooLarge)
	f("a body for a path that takes none", "POST /nowhere HTTP/1.1\r\n"+auth+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(big))+big, 413, TooLarge)
	// What is refused for its headers is refused before its body has come, and before any memory is set aside for that.
	f("a batch of somebody unknown", "POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer kw_x\r\nContent-Length: 1000000\r\n\r\n", 401, Unauthenticated)
	f("a batch of nobody", "POST /api/v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", 401, Unauthenticated)
	f("a body larger than its path takes", signLine+auth+"Content-Length: 1000000\r\n\r\n", 413, TooLarge)
	if a := g.send("POST", "/api/v1/batch", `{"operations":[{"op":"mac","key":"k-mac","message":"`+strings.Repeat("A", 400<<10)+`"}]}`); a.status != 200 {
		t.Errorf("a batch of a known client: %d %s", a.status, a.raw)
	}
}

// A form is not parsed, nor written to a temporary file: it is a body like any other.
func TestFormsAreNotParsed(t *testing.T) {
	g := newGate(t, nil)
	req, _ := http.NewRequest("POST", g.url+"/api/v1/keys/k-mac/mac", strings.NewReader(`{"message":"aGk="}`))
	req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
	req.Header.Set("Authorization", "Bearer "+appToken)
	res, err := g.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("%d", res.StatusCode)
	}
}

// Clients open connections before they need them: one that has sent nothing yet may wait as long as one between two requests, and
// from its first byte on a request has to arrive within the read timeout.
func TestANewConnectionMayWaitForItsFirstRequest(t *testing.T) {
	g := newGate(t, func(c *Config) { c.ReadTimeout, c.IdleTimeout = 200*time.Millisecond, time.Minute })
	c := g.dial()
	defer c.Close()
	time.Sleep(500 * time.Millisecond)
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if got := statuses(t, string(b)); err != nil || fmt.Sprint(got) != "[200]" {
		t.Errorf("a connection first used after more than the read timeout: %v, %v", got, err)
	}
	begun := time.Now()
	if got := statuses(t, g.exchange("GET /healthz HTTP/1.1\r\nHost: x")); fmt.Sprint(got) != "[400]" || time.Since(begun) > 20*time.Second {
		t.Errorf("half a request: %v after %s, want 400 after the read timeout and not after the idle one", got, time.Since(begun))
	}
}

// One that never begins is closed after the idle timeout, without a word.
func TestAConnectionWithoutARequestIsClosed(t *testing.T) {
	g := newGate(t, func(c *Config) { c.ReadTimeout, c.IdleTimeout = time.Minute, 200*time.Millisecond })
	if got := g.exchange(""); got != "" {
		t.Errorf("who asked nothing hears %q", got)
	}
}
