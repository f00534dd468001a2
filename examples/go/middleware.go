package hostbadge

import (
	"context"
	"net/http"
	"strings"
)

type claimsKey struct{}

// Protected lets the requests through that have a token of this host for the audience, and the proof to which it is
// bound. The service itself is an agent, so that it may introspect (POST /v1/introspect). origin is the service's own,
// by its configuration, such as "https://api.example.com": a header such as Host could name another one.
func Protected(client *Client, audience, origin string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, err := introspect(client, audience, origin, r)
		switch {
		case err != nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		case claims["active"] != true:
			w.Header().Set("WWW-Authenticate", `DPoP algs="ES256"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), claimsKey{}, claims)))
		}
	})
}

// Claims returns the claims of the token of a request that Protected let through.
func Claims(r *http.Request) map[string]any {
	claims, _ := r.Context().Value(claimsKey{}).(map[string]any)
	return claims
}

// introspect returns the claims of the request's token, or {"active": false}.
func introspect(client *Client, audience, origin string, r *http.Request) (map[string]any, error) {
	inactive := map[string]any{"active": false}
	given, proofs := r.Header.Values("Authorization"), r.Header.Values("DPoP")
	if len(given) != 1 || len(proofs) > 1 {
		return inactive, nil
	}
	kind, token, _ := strings.Cut(given[0], " ")
	if token == "" {
		return inactive, nil
	}
	request := map[string]string{"token": token, "audience": audience}
	if len(proofs) == 1 {
		request["proof"], request["method"], request["url"] = proofs[0], r.Method, origin+r.URL.EscapedPath()
	}
	claims, err := client.Introspect(request)
	if err != nil {
		return nil, err
	}
	// A bound token without its proof is a stolen one.
	_, isBound := claims["cnf"]
	tokenType, _ := claims["token_type"].(string)
	if !strings.EqualFold(kind, tokenType) || isBound != (len(proofs) == 1) {
		return inactive, nil
	}
	return claims, nil
}
