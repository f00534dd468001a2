// A client of the Workload API with go-spiffe: workload AUDIENCE. Prints the same as workload.py.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func say(value any) {
	text, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}

type watcher struct {
	pushed int
	done   chan struct{}
}

func (w *watcher) OnJWTBundlesUpdate(bundles *jwtbundle.Set) {
	kids := []string{}
	for _, bundle := range bundles.Bundles() {
		for kid := range bundle.JWTAuthorities() {
			kids = append(kids, kid)
		}
	}
	sort.Strings(kids)
	say(map[string]any{"kids": kids})
	if w.pushed++; w.pushed == 2 {
		close(w.done)
	}
}

func (w *watcher) OnJWTBundlesWatchError(err error) {
	if !strings.Contains(err.Error(), "context canceled") {
		log.Fatal(err)
	}
}

// Says the certificate that a source has, and whether its chain holds by the bundle that it has.
func show(source *workloadapi.X509Source) {
	svid, err := source.GetX509SVID()
	if err != nil {
		log.Fatal(err)
	}
	id, _, err := x509svid.Verify(svid.Certificates, source)
	holds := err == nil && id == svid.ID
	leaf := base64.StdEncoding.EncodeToString(svid.Certificates[0].Raw)
	say(map[string]any{"x509": svid.ID.String(), "leaf": leaf, "holds": holds})
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	audience := os.Args[1]
	svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		log.Fatal(err)
	}
	say(map[string]any{"spiffe_id": svid.ID.String(), "token": svid.Marshal()})
	valid, err := client.ValidateJWTSVID(ctx, svid.Marshal(), audience)
	if err != nil {
		log.Fatal(err)
	}
	say(map[string]any{"valid": valid.ID.String()})
	_, err = client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "https://bank.example.com"})
	say(map[string]any{"denied": err != nil && strings.Contains(err.Error(), "PermissionDenied")})
	watch := &watcher{done: make(chan struct{})}
	watching, endWatch := context.WithCancel(ctx)
	watchEnded := make(chan struct{})
	go func() {
		_ = client.WatchJWTBundles(watching, watch)
		close(watchEnded)
	}()
	select {
	case <-watch.done:
	case <-ctx.Done():
		log.Fatal("nothing was pushed")
	}
	// The watch ends before the client closes: the closed connection would be an error of the watch.
	endWatch()
	<-watchEnded
	bundles, err := client.FetchX509Bundles(ctx)
	if err != nil {
		log.Fatal(err)
	}
	domains := []string{}
	for _, bundle := range bundles.Bundles() {
		domains = append(domains, bundle.TrustDomain().Name())
	}
	say(map[string]any{"domains": domains})
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	show(source)
	select {
	case <-source.Updated():
		show(source)
	case <-ctx.Done():
		log.Fatal("the certificate was not renewed")
	}
}
