package adminapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keyway/lifecycle/key"
)

// authority is a CA of the test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	must(t, err)
	c, err = x509.ParseCertificate(der)
	must(t, err)
	return &authority{c, k}
}

// person issues a client certificate.
func (a *authority) person(t *testing.T, name string) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &k.PublicKey, a.key)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}

func hashOf(c tls.Certificate) string {
	h := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(h[:])
}

func TestOperatorsAreKnownByTheirCertificates(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	bob, eve := ca.person(t, "bob"), ca.person(t, "eve")
	// A certificate of another authority for bob's own key: the hash is the right one, the chain is not.
	forged := bob
	der, err := x509.CreateCertificate(rand.Reader, bob.Leaf, other.cert, &bob.PrivateKey.(*ecdsa.PrivateKey).PublicKey, other.key)
	must(t, err)
	forged.Certificate = [][]byte{der}

	h := newHouse(t, func(c *Config) { c.Admins = append(c.Admins, Admin{Name: "bob", CertHash: hashOf(bob)}) })
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	s := httptest.NewUnstartedServer(h.api)
	s.TLS = &tls.Config{ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}
	s.StartTLS()
	defer s.Close()
	ask := func(cert *tls.Certificate, token string) (int, error) {
		t.Helper()
		tr := s.Client().Transport.(*http.Transport).Clone()
		if cert != nil {
			// By hand: the client would not send a certificate that the server's list of authorities rules out.
			tr.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		defer tr.CloseIdleConnections()
		r, err := http.NewRequest("POST", s.URL+"/admin/v1/clients", strings.NewReader(`{"name":"c-`+key.NewID().String()+`"}`))
		must(t, err)
		r.Header.Set("Content-Type", "application/json")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := (&http.Client{Transport: tr}).Do(r)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode, nil
	}
	f := func(what string, cert *tls.Certificate, token string, want int) {
		t.Helper()
		if got, err := ask(cert, token); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", what, got, err, want)
		}
	}
	f("bob's certificate", &bob, "", 201)
	f("a certificate of nobody's", &eve, "", 401)
	f("no certificate", nil, "", 401)
	f("no certificate and a token", nil, token, 201)
	f("bob's certificate and a wrong token", &bob, "wrong", 401)
	if got, err := ask(&forged, ""); err == nil {
		t.Errorf("a certificate of another authority: %d, want no connection", got)
	}
	for _, want := range []string{"actor=bob", "actor=alice"} {
		if !strings.Contains(h.log.String(), `msg="client created" `+want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	if strings.Contains(h.log.String(), "actor=eve") {
		t.Error("eve made a client")
	}
}
