//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"keyway/loadtest/ask"
)

// saturation is a closed loop on many connections: each sends its next request when the last is answered. Three of four
// connections have a message signed, and one in so many signatures is verified; the fourth has one MACed, and every MAC must be the first one.
type saturation struct {
	addr, token string
	conns       int
	ec          *ecdsa.PublicKey
	// patient: the client asks again when there is nobody, when the gateway says that it shuts down, and when its connection was closed
	// before a byte of the answer came.
	patient bool
	tape    *tape

	mac         atomic.Pointer[[]byte]
	verified, n atomic.Int64
	unanswered  atomic.Int64 // connections closed before a byte of the answer came
}

const verifyEvery = 16

// patience is how long a patient client asks again.
const patience = 30 * time.Second

// run sends until ctx ends and returns when everything is answered.
func (s *saturation) run(ctx context.Context) {
	client := &fasthttp.HostClient{
		Addr: s.addr, MaxConns: s.conns, ReadTimeout: 2 * s.tape.deadline, MaxIdemponentCallAttempts: 1, NoDefaultUserAgentHeader: true, MaxIdleConnDuration: time.Minute,
		RetryIfErr: func(*fasthttp.Request, int, error) (bool, bool) { return false, false },
	}
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range s.conns {
		all.Go(func() {
			path, check := "/api/v1/keys/ec/sign", s.signature
			if i%4 == 3 {
				path, check = "/api/v1/keys/mac/mac", s.sameMAC
			}
			for ctx.Err() == nil {
				s.one(client, path, check)
			}
		})
	}
	all.Wait()
}

var message = []byte("a message of every day")

// one sends a request until it has an answer.
func (s *saturation) one(client *fasthttp.HostClient, path string, check func([]byte) error) {
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	body, _ := json.Marshal(map[string]any{"message": message}) // bytes always marshal
	req.SetRequestURI("http://" + s.addr + path)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+s.token)
	req.Header.SetContentType("application/json")
	req.SetBody(body)
	intended := time.Now()
	for {
		sent := time.Now()
		err := client.Do(req, res)
		if err == nil && res.StatusCode() != fasthttp.StatusOK {
			err = ask.Refusal(res.StatusCode(), res.Body())
		} else if err == nil {
			err = check(res.Body())
		}
		if errors.Is(err, fasthttp.ErrConnectionClosed) {
			s.unanswered.Add(1)
		}
		if s.patient && err != nil && time.Since(intended) < patience && (errors.Is(err, fasthttp.ErrConnectionClosed) || res.StatusCode() == fasthttp.StatusServiceUnavailable || dialing(err)) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		s.tape.add(path, intended, time.Since(intended), time.Since(sent), err)
		return
	}
}

// signature checks one signature in so many.
func (s *saturation) signature(body []byte) error {
	if s.n.Add(1)%verifyEvery != 0 {
		if !bytes.HasPrefix(body, []byte(`{"`)) || !bytes.Contains(body, []byte(`"signature"`)) {
			return fmt.Errorf("%w: no signature: %.80q", ask.ErrWrong, body)
		}
		return nil
	}
	var out struct{ Signature []byte }
	h := sha256.Sum256(message)
	if err := json.Unmarshal(body, &out); err != nil || !ecdsa.VerifyASN1(s.ec, h[:], out.Signature) {
		return fmt.Errorf("%w: a signature that does not verify: %.200q", ask.ErrWrong, body)
	}
	s.verified.Add(1)
	return nil
}

// sameMAC wants the MAC that came first.
func (s *saturation) sameMAC(body []byte) error {
	var out struct{ MAC []byte }
	if err := json.Unmarshal(body, &out); err != nil || len(out.MAC) != sha256.Size {
		return fmt.Errorf("%w: no MAC: %.80q", ask.ErrWrong, body)
	}
	s.mac.CompareAndSwap(nil, &out.MAC)
	if first := *s.mac.Load(); !bytes.Equal(first, out.MAC) {
		return fmt.Errorf("%w: the MAC is %x, the first one was %x", ask.ErrWrong, out.MAC, first)
	}
	s.verified.Add(1)
	return nil
}
