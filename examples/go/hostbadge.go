// Package hostbadge is a client of hostbadge in one file: tokens that are renewed before they expire, proofs, and whoami.
//
//	client := hostbadge.New("", "")
//	headers, err := client.Headers("https://api.example.com", "", "GET", "https://api.example.com/v1/items")
//
// It needs the standard library alone. The daemon identifies this process; there is no secret to configure.
package hostbadge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	defaultSocket = "/run/hostbadge/agent.sock"
	timeout       = 30 * time.Second // longer than the daemon's own
	maxResponse   = 4 << 20          // bytes
)

// Client is safe for use by several goroutines.
type Client struct {
	http   *http.Client
	agent  string
	mutex  sync.Mutex
	tokens map[string]cached
}

// Token is a token response (RFC 6749 section 5.1).
type Token struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Scope       string `json:"scope"`
}

// Refused is the daemon's error: Code is that of RFC 6749, and RetryAfter is in seconds or empty.
type Refused struct {
	Status      int    `json:"-"`
	Code        string `json:"error"`
	Description string `json:"error_description"`
	RetryAfter  string `json:"-"`
}

func (r *Refused) Error() string { return r.Code + ": " + r.Description }

type cached struct {
	token   Token
	renewAt time.Time
}

// New returns a client of the socket at path; empty for $HOSTBADGE_SOCKET or the default. agent is needed where this
// process matches several agents.
func New(path, agent string) *Client {
	for _, choice := range []string{os.Getenv("HOSTBADGE_SOCKET"), defaultSocket} {
		if path == "" {
			path = choice
		}
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	transport := &http.Transport{DialContext: dial}
	return &Client{http: &http.Client{Transport: transport, Timeout: timeout}, agent: agent, tokens: map[string]cached{}}
}

// Whoami returns this process, as the daemon identifies it.
func (c *Client) Whoami() (map[string]any, error) {
	answer := map[string]any{}
	err := c.call("GET", "/v1/whoami", nil, &answer)
	return answer, err
}

// Token returns a token for an audience, from the cache for half of its lifetime. An empty scope asks for all of the
// grant.
func (c *Client) Token(audience, scope string) (Token, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	key := audience + "\n" + scope
	if known, found := c.tokens[key]; found && time.Now().Before(known.renewAt) {
		return known.token, nil
	}
	var token Token
	request := map[string]string{"audience": audience, "scope": scope, "agent": c.agent}
	if err := c.call("POST", "/v1/token", request, &token); err != nil {
		return Token{}, err
	}
	c.tokens[key] = cached{token, time.Now().Add(time.Duration(token.ExpiresIn) * time.Second / 2)}
	return token, nil
}

// Prove returns the headers of a proof for this one request; body is nil where it has none, and token and nonce may
// be empty.
func (c *Client) Prove(kind, method, url string, body []byte, token, nonce string) (map[string]string, error) {
	request := map[string]string{
		"kind": kind, "method": method, "url": url, "token": token, "nonce": nonce, "agent": c.agent,
	}
	if body != nil {
		digest := sha256.Sum256(body)
		request["body_sha256"] = hex.EncodeToString(digest[:])
	}
	var answer struct{ Headers map[string]string }
	err := c.call("POST", "/v1/prove", request, &answer)
	return answer.Headers, err
}

// Headers returns Authorization for a request, and the DPoP proof where the token is bound to a key.
func (c *Client) Headers(audience, scope, method, url string) (map[string]string, error) {
	token, err := c.Token(audience, scope)
	if err != nil {
		return nil, err
	}
	headers := map[string]string{}
	if token.TokenType == "DPoP" {
		if headers, err = c.Prove("dpop", method, url, nil, token.AccessToken, ""); err != nil {
			return nil, err
		}
	}
	headers["Authorization"] = token.TokenType + " " + token.AccessToken
	return headers, nil
}

// Introspect returns whether a token of this host is valid now (RFC 7662); this process has to be an agent.
func (c *Client) Introspect(request map[string]string) (map[string]any, error) {
	answer := map[string]any{}
	err := c.call("POST", "/v1/introspect", request, &answer)
	return answer, err
}

func (c *Client) call(method, path string, request map[string]string, answer any) error {
	for name, value := range request {
		if value == "" {
			delete(request, name)
		}
	}
	var body io.Reader
	if request != nil {
		text, err := json.Marshal(request)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	asked, err := http.NewRequest(method, "http://localhost"+path, body)
	if err != nil {
		return err
	}
	asked.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(asked)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		refused := &Refused{Status: response.StatusCode, RetryAfter: response.Header.Get("Retry-After")}
		if err := json.Unmarshal(text, refused); err != nil {
			return fmt.Errorf("status %d without an error of the daemon", response.StatusCode)
		}
		return refused
	}
	return json.Unmarshal(text, answer)
}
